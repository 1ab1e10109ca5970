"""What protocols consist of, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from pgseg_mm.text.vocabulary import Vocabulary

from .protocols import Protocol, ProtocolSettings

TABLE_HEAD = ('Benchmark', 'Short side', 'Windows', 'Words', 'Background', 'Logit scale', 'Area')


def settings_row(settings: ProtocolSettings) -> tuple[str, ...]:
    """Cells of a benchmark under :data:`TABLE_HEAD`."""
    windows = f'{settings.window}, {settings.stride} apart' if settings.window else 'whole image'
    scale = settings.logit_scale
    if settings.background_score is not None and scale == 1:
        scale = None  # of a softmax that changes nothing
    return (
        settings.benchmark,
        str(settings.short_side),
        windows,
        f'`{settings.words}`' if settings.words else "the data set's",
        background_in_words(settings),
        f'{scale:g}' if scale else '–',
        f'{settings.area_threshold:g}' if settings.area_threshold else '–',
    )


def background_in_words(settings: ProtocolSettings) -> str:
    """How class 0 is found, if there is one of everything else."""
    if settings.background_threshold is not None:
        return f'scores below {settings.background_threshold:g}'
    if settings.background_score is not None:
        return f'constant score {settings.background_score:g}'
    if settings.prob_threshold is None:
        return '–'
    words = 'its words'
    if settings.words is not None:
        first = Vocabulary.from_file(settings.words).words[0]
        words = f'{len(first)} words' if len(first) > 1 else f'the word {first[0]}'
    return f'{words}, or probability below {settings.prob_threshold:g}'


def _multiples(divisor: int | str) -> str:
    return 'whole patches' if divisor == 'patch' else f'multiples of {divisor} px'


def common_settings(settings: ProtocolSettings) -> str:
    """What is mostly the same for all benchmarks of a protocol, in a sentence."""
    divisor = settings.window_divisor
    padded = 'are not padded' if divisor is None else f'are padded to {_multiples(divisor)}'
    again = ''
    if settings.image_divisor is not None:
        sides = _multiples(settings.image_divisor)
        again = f'; images resized again to {sides}, of at least the window'
    unit = (
        'each of unit length before the mean'
        if settings.normalize_prompts
        else 'averaged as they are'
    )
    templates = settings.templates
    named = f'`{templates}`' if isinstance(templates, str) else f'{len(templates)} of its own'
    pamr = settings.pamr
    refined = 'no refinement'
    if pamr:
        pamr = {'num_iters': 10, 'dilations': (8, 16)} | (pamr if isinstance(pamr, dict) else {})
        dilations = ', '.join(map(str, pamr['dilations']))
        refined = f'PAMR, {pamr["num_iters"]} iterations, dilations {dilations}'
        if (downscale := pamr.get('window_downscale')) is not None:
            refined += f', of each window at 1/{downscale} of its size'
    pixels = "pixels normalised as the model's are"
    if settings.mean is not None and settings.std is not None:
        mean, std = (
            ', '.join(f'{x:g}' for x in values) for values in (settings.mean, settings.std)
        )
        pixels = f'pixels less ({mean}) by ({std})'
    return (
        f'long side at most {settings.long_side} px{again}; windows {padded}; '
        f'templates {named}, {unit}; {pixels}; {refined}'
    )


def protocol_table(settings: Sequence[ProtocolSettings], unknown: Sequence[str] = ()) -> list[str]:
    """Lines of a table in Markdown, with what all benchmarks have in common and the notes below.

    Args:
        settings: Of one protocol, one for each benchmark.
        unknown: Benchmarks that the protocol is not known for.
    """
    lines = [f'| {" | ".join(TABLE_HEAD)} |', f'| --- |{" --- |" * (len(TABLE_HEAD) - 1)}']
    lines += [f'| {" | ".join(settings_row(one))} |' for one in settings]
    common: dict[str, list[str]] = {}
    for one in settings:
        common.setdefault(common_settings(one), []).append(one.benchmark)
    lines.append('')
    for sentence, names in common.items():
        where = 'All' if len(common) == 1 else ', '.join(names)
        lines.append(f'- {where}: {sentence}.')
    if unknown:
        lines.append(f'- Unknown: how {", ".join(unknown)} would be evaluated.')
    notes = dict.fromkeys(note for one in settings for note in one.notes)
    return [*lines, *(f'- Not as published: {note}.' for note in notes)]


def describe_protocol(protocol: Protocol, level: int = 2) -> list[str]:
    """A protocol as lines in Markdown, with its name as the heading.

    Args:
        protocol: The protocol.
        level: Of the heading.

    Raises:
        ConfigError: If settings of a benchmark are unknown.
    """
    names = protocol.benchmarks
    known = [protocol.settings(name) for name, own in names.items() if own is not None]
    unknown = [name for name, own in names.items() if own is None]
    return [f'{"#" * level} {protocol.name}', '', *protocol_table(known, unknown)]
