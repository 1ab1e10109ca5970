"""The demo's numbers in a table, over seeds and with the control."""

from statistics import mean
from typing import Any

Metrics = dict[str, float]
HEADER = (
    '| Seed | Model | mIoU | objects | textures | mIoU / untrained | objects / shuffled |',
    '| --- | --- | --: | --: | --: | --: | --: |',
)


def times_reference(value: float, reference: float) -> float | None:
    """How many times the reference; ``None`` where that is zero."""
    return round(value / reference, 2) if reference else None


def benchmark_table(summaries: list[dict[str, Any]], command: str, seconds: float) -> str:
    """Write all runs and their means as Markdown.

    Args:
        summaries: What the runs have written as ``summary.json``.
        command: Command line that made them.
        seconds: Time it took.

    Returns:
        The text.
    """
    seeds: dict[int, dict[str, Metrics]] = {}
    for summary in summaries:
        settings, metrics = summary['settings'], summary['metrics']
        models = seeds.setdefault(settings['seed'], {})
        if settings['scenes']['shuffle_captions']:
            models['shuffled captions'] = metrics['trained']
        else:
            models['untrained'] = metrics['untrained']
            models['trained'] = metrics['trained']
    lines = [line for seed, models in seeds.items() for line in _rows(str(seed), models)]
    if len(seeds) > 1:
        lines += _rows('mean', _means(list(seeds.values())))
    return '\n'.join([*HEADER, *lines, '', *_notes(summaries, command, seconds), ''])


def _rows(seed: str, models: dict[str, Metrics]) -> list[str]:
    rows = []
    order = [name for name in ('untrained', 'trained', 'shuffled captions') if name in models]
    for name in order:
        metrics = models[name]
        cells = [f'{metrics[key]:.2f}' for key in ('mIoU', 'mIoU_objects', 'mIoU_textures')]
        ratios = ['', '']
        if name == 'trained':
            ratios[0] = _times(metrics['mIoU'], models['untrained']['mIoU'])
            if 'shuffled captions' in models:
                shuffled = models['shuffled captions']
                ratios[1] = _times(metrics['mIoU_objects'], shuffled['mIoU_objects'])
        rows.append('| ' + ' | '.join([seed, name, *cells, *ratios]) + ' |')
    return rows


def _times(value: float, reference: float) -> str:
    times = times_reference(value, reference)
    return '–' if times is None else f'{times:.2f}'


def _means(seeds: list[dict[str, Metrics]]) -> dict[str, Metrics]:
    return {
        name: {key: mean(models[name][key] for models in seeds) for key in metrics}
        for name, metrics in seeds[0].items()
    }


def _notes(summaries: list[dict[str, Any]], command: str, seconds: float) -> list[str]:
    settings, machine = summaries[0]['settings'], summaries[0]['machine']
    scenes = settings['scenes']
    times = [summary['seconds']['training_with_validation'] for summary in summaries]
    accelerator = f', {machine["accelerator"]}' if machine['accelerator'] else ''
    return [
        'Mean IoU in percent, of the last weights. The ratios in the rows of means are ratios of '
        'means. "Shuffled captions" was trained on the same images, each with the caption of '
        'another one.',
        '',
        f'- Config: `{settings["config"]}`, {settings["iterations"]} iterations'
        + ''.join(f', `{key}={value}`' for key, value in settings['options'].items()),
        f'- Data: {scenes["num_train"]} training pairs and {scenes["num_val"]} validation images '
        f'of {scenes["image_size"]} px, {scenes["num_classes"]} classes; the same for all seeds',
        f'- Machine: {machine["processor"]}, {machine["cores"]} cores, threads a run: '
        f'{machine["threads"]}{accelerator}; Python {machine["python"]}, torch {machine["torch"]}',
        f'- Training with its validations: {min(times):.0f} to {max(times):.0f} s a run; '
        f'all together {seconds:.0f} s for what was not there before',
        f'- Command: `{command}`',
    ]
