"""Evaluation protocols by name: how a benchmark is looked at, mixed with any model."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.utils import to_2tuple

from pgseg_mm.messages import quoted, shown

from .benchmark_data import leaf_datasets
from .config_files import ConfigError, read_config_file
from .parts import type_name

_PACKAGE = Path(__file__).parents[1]
PROTOCOL_FOLDERS = tuple(
    root / 'configs' / '_base_' / 'protocols' for root in (_PACKAGE / '.mim', _PACKAGE.parent)
)
"""Where the protocols lie: in an installed package, and in a checkout."""
UNKNOWN = 'unknown'
"""Value of a setting, or of a benchmark, that could not be found out."""
RESIZES = ('Resize', 'ResizeAnyShape')
HOOK = 'VocabularyHook'
THRESHOLDS = ('background_threshold', 'background_score', 'prob_threshold')
"""Settings that decide on class 0 by a number; the first that there is counts."""


@dataclass(frozen=True)
class ProtocolSettings:
    """What a protocol says of a benchmark. Sizes are in pixels, thresholds 'none' as ``None``."""

    protocol: str
    benchmark: str
    short_side: int
    """Of the resized image, unless the long one would be longer than ``long_side``."""
    long_side: int
    window: int | None = None
    """Side of the windows; ``None`` for the whole image at once."""
    stride: int | None = None
    window_divisor: int | str | None = None
    """What windows are padded to multiples of, with zeros around; ``'patch'`` for the patch."""
    image_divisor: int | str | None = None
    """What the sides of the resized image are resized again to multiples of."""
    words: str | None = None
    """Vocabulary; ``None`` for the data set's own names."""
    templates: Any = 'simple'
    normalize_prompts: bool = False
    """Whether each prompt's embedding has unit length before the mean over the templates."""
    mean: tuple[float, ...] | None = None
    """Taken from the pixels (R, G, B); ``None`` for what the model has."""
    std: tuple[float, ...] | None = None
    background_threshold: float | None = None
    """Class 0 is where no class scores as high."""
    background_score: float | None = None
    """Constant score of class 0."""
    logit_scale: float | None = None
    """Of the softmax over words; ``None`` for no softmax."""
    prob_threshold: float | None = None
    """Class 0 is where no class is as probable; it has words, too."""
    area_threshold: float | None = None
    """Share of the foreground below which a class is left out."""
    pamr: dict | None = None
    """Refinement of the scores."""
    scores: str | None = None
    """What the thresholds are for: ``'affinity'``, ``'probability'``, ``'mask'`` (0 to 1 each) or
    ``'cosine'``."""
    notes: tuple[str, ...] = ()
    """What of the protocol is not done, or done otherwise."""


class Protocol(NamedTuple):
    """A protocol as it was read."""

    name: str
    common: dict[str, Any]
    """Settings of all benchmarks."""
    benchmarks: dict[str, dict[str, Any] | None]
    """What differs, by benchmark; ``None`` where nothing is known."""

    def settings(self, benchmark: str) -> ProtocolSettings:
        """What it says of a benchmark.

        Raises:
            ConfigError: If it says nothing, or something could not be found out.
        """
        own = self.benchmarks.get(benchmark)
        known = ', '.join(name for name, found in self.benchmarks.items() if found is not None)
        if own is None:
            raise ConfigError(
                f'how {shown(benchmark)} is evaluated by the {self.name} protocol is unknown; '
                f'it has settings of {known}'
            )
        values = {**self.common, **own}
        if unknown := [name for name, value in values.items() if value == UNKNOWN]:
            raise ConfigError(
                f'the {self.name} protocol on {benchmark} has unknown settings: '
                f'{", ".join(unknown)}; set them in a protocol file of your own'
            )
        values['notes'] = tuple(values.get('notes') or ())
        return ProtocolSettings(self.name, benchmark, **values)


def protocol_names() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted({path.stem for folder in PROTOCOL_FOLDERS for path in folder.glob('*.py')})


def read_protocol(name: str) -> Protocol:
    """Read a protocol.

    Args:
        name: One that comes with the package, such as ``sclip``, or a config file with
            ``protocol``, which may have one of those as its base.

    Raises:
        ConfigError: If there is none, or it is faulty.
    """
    files = [folder / f'{name}.py' for folder in PROTOCOL_FOLDERS] if '/' not in name else []
    path = next((file for file in (*files, Path(name)) if os.path.isfile(file)), None)
    if path is None:
        raise ConfigError(
            f'there is no protocol {quoted(name)}; choose one of {", ".join(protocol_names())}, or '
            'give a config file with protocol=dict(...)'
        )
    content = read_config_file(path).get('protocol')
    if content is None:
        raise ConfigError(f'{shown(path)} has no protocol=dict(...)')
    return as_protocol(content, path.stem)


def as_protocol(content: Any, name: str = 'own') -> Protocol:
    """A protocol from what stands in a config.

    Args:
        content: The value of ``protocol``.
        name: Its name, if it has none.

    Raises:
        ConfigError: If it is faulty.
    """
    content = content.to_dict() if hasattr(content, 'to_dict') else content
    if not isinstance(content, Mapping) or not isinstance(content.get('benchmarks'), Mapping):
        raise ConfigError('protocol must be a dict with benchmarks=dict(NAME=dict(words=...), ...)')
    common = {key: value for key, value in content.items() if key not in ('name', 'benchmarks')}
    name = content.get('name', name)
    if not isinstance(name, str) or not name or set(name) & set('/\\|`\n'):
        raise ConfigError(f'the name of a protocol must be a word, got {quoted(str(name))}')
    benchmarks: dict[str, dict[str, Any] | None] = {}
    for benchmark, own in content['benchmarks'].items():
        if not isinstance(own, Mapping) and own != UNKNOWN:
            raise ConfigError(
                f"benchmark {benchmark} of the {name} protocol must be a dict or '{UNKNOWN}', got "
                f'{quoted(str(own))}'
            )
        benchmarks[benchmark] = None if own == UNKNOWN else dict(own)
        _check_settings(name, benchmark, {**common, **(benchmarks[benchmark] or {})})
    return Protocol(name, common, benchmarks)


def _check_settings(name: str, benchmark: str, values: Mapping[str, Any]) -> None:
    """Refuse settings that there are not, that contradict each other, or that lack."""
    place = f'the {name} protocol on {benchmark}'
    own = fields(ProtocolSettings)[2:]
    if more := values.keys() - {field.name for field in own}:
        known = ', '.join(field.name for field in own)
        raise ConfigError(f'{place} has {", ".join(sorted(more))}; a protocol has {known}')
    needed = [field.name for field in own if field.default is MISSING]
    if lacking := [key for key in needed if values.get(key) is None]:
        raise ConfigError(f'{place} lacks {", ".join(lacking)}')
    if not isinstance(values.get('pamr') or {}, Mapping):
        raise ConfigError(f'{place} has pamr={values["pamr"]!r}; expected its settings, as a dict')
    if (values.get('window') is None) != (values.get('stride') is None):
        raise ConfigError(f'{place} must have both window and stride, or neither for whole images')
    if (values.get('mean') is None) != (values.get('std') is None):
        raise ConfigError(f'{place} must have both mean and std, or neither')
    rules = ('prob_threshold', 'area_threshold')
    scaled = values.get('logit_scale') is not None
    if not scaled and any(values.get(rule) is not None for rule in rules):
        raise ConfigError(f'{place} needs a logit_scale for {" and ".join(rules)}')
    ways = [key for key in ('background_threshold', 'background_score') if values.get(key)]
    if len(ways) == 2 or (scaled and 'background_threshold' in ways):
        raise ConfigError(
            f'{place} finds class 0 in several ways: background_threshold stands alone'
        )


def apply_protocol(cfg: Config, settings: ProtocolSettings) -> None:
    """Have a config evaluate as a protocol says; the model stays what it is.

    Changed are the resizing of the test set's pipeline, the words, and of the model ``test_cfg``,
    ``templates``, ``normalize_prompts``, ``background_threshold`` and the data preprocessor's mean
    and deviation. ``applied_protocol`` notes the settings, in place of ``protocol``.

    Args:
        cfg: Config with a test set and a model that takes words, changed in place.
        settings: What the protocol says of the benchmark.

    Raises:
        ConfigError: If the config has no resizing, or a model that takes no words.
    """
    model: Any = cfg.get('model') or {}
    if 'text_encoder' not in model or 'decode_head' not in model:
        raise ConfigError(
            f'a protocol is for models with text_encoder and decode_head, got a '
            f'{type_name(model, "config without a model")}'
        )
    _set_size(cfg, settings)
    _set_words(cfg, settings)
    model.test_cfg = _test_cfg(dict(model.get('test_cfg') or {}), settings)
    _set(model, 'templates', settings.templates, 'simple')
    _set(model, 'normalize_prompts', settings.normalize_prompts, False)
    _set(model.decode_head, 'background_threshold', settings.background_threshold, None)
    if settings.mean is not None and settings.std is not None:
        model.data_preprocessor.update(mean=list(settings.mean), std=list(settings.std))
    cfg.pop('protocol', None)
    cfg.applied_protocol = {key: value for key, value in asdict(settings).items() if value}


def _set(part: Any, key: str, value: Any, default: Any) -> None:
    """Set what differs from the default, or from what is set."""
    if key in part or value != default:
        part[key] = value


def _set_size(cfg: Config, settings: ProtocolSettings) -> None:
    # a test set may share its pipeline with the validation
    cfg.test_dataloader = copy.deepcopy(cfg.test_dataloader)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        steps = [step for step in dataset.get('pipeline', []) if type_name(step) in RESIZES]
        if len(steps) != 1:
            raise ConfigError(
                f'a protocol sets the one Resize of the test pipeline, which has {len(steps)}'
            )
        steps[0].pop('scale_factor', None)
        steps[0].update(scale=(settings.long_side, settings.short_side), keep_ratio=True)
        if 'test_pipeline' in cfg:
            cfg.test_pipeline = copy.deepcopy(dataset.pipeline)


def _set_words(cfg: Config, settings: ProtocolSettings) -> None:
    hooks = copy.deepcopy(cfg.get('custom_hooks') or [])
    found = [hook for hook in hooks if type_name(hook) == HOOK]
    for hook in found:
        hook['vocabulary'] = settings.words
    cfg.custom_hooks = hooks if found else [*hooks, {'type': HOOK, 'vocabulary': settings.words}]


def _test_cfg(cfg: dict[str, Any], settings: ProtocolSettings) -> dict[str, Any]:
    for key in (
        'mode',
        'crop_size',
        'stride',
        'window_divisor',
        'image_divisor',
        'resize',
        'decision',
        'pamr',
    ):
        cfg.pop(key, None)
    if settings.window is None or settings.stride is None:
        cfg.update(mode='whole')
    else:
        cfg.update(
            mode='slide',
            crop_size=(settings.window, settings.window),
            stride=(settings.stride, settings.stride),
        )
    for key in ('window_divisor', 'image_divisor'):
        if getattr(settings, key) is not None:
            cfg[key] = getattr(settings, key)
    if settings.logit_scale is not None or settings.background_score is not None:
        rules = ('prob_threshold', 'area_threshold', 'background_score')
        given = {key: getattr(settings, key) for key in rules}
        decision = {key: value for key, value in given.items() if value is not None}
        cfg.update(decision={'logit_scale': settings.logit_scale or 1.0, **decision})
    if settings.pamr is not None:
        cfg.update(pamr=dict(settings.pamr))
    return cfg


def threshold_name(rules: Mapping[str, Any]) -> str | None:
    """Which of several rules decides on class 0 by a number, if any does.

    Args:
        rules: Values of those of :data:`THRESHOLDS` that there are.
    """
    return next((name for name in THRESHOLDS if rules.get(name) is not None), None)


def deciding_threshold(cfg: Config) -> tuple[str | None, float | None]:
    """What decides on the background by a number in a config, whichever way it is found.

    Args:
        cfg: Config of a model with a head that takes words.

    Returns:
        One of :data:`THRESHOLDS` and its value, or twice ``None``.
    """
    decision = (cfg.model.get('test_cfg') or {}).get('decision')
    head = {'background_threshold': cfg.model.decode_head.get('background_threshold')}
    rules = head if decision is None else decision
    name = threshold_name(rules)
    return name, None if name is None else rules[name]


def with_threshold(settings: ProtocolSettings, threshold: float | None) -> ProtocolSettings:
    """The same with another threshold of class 0, by whichever way it is found.

    Args:
        settings: What a protocol says.
        threshold: In place of its own; ``None`` leaves it as it is.

    Raises:
        ConfigError: If there is no class 0 of everything else.
    """
    if threshold is None:
        return settings
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    name = threshold_name(values)
    if name is None:
        raise ConfigError(
            f'the {settings.protocol} protocol has no background on {settings.benchmark}, so it '
            'takes no threshold'
        )
    return ProtocolSettings(**{**values, name: threshold})


def settings_of(cfg: Config, protocol: str, notes: tuple[str, ...] = ()) -> ProtocolSettings:
    """How a config evaluates, whoever has set it.

    Args:
        cfg: Config with ``benchmark``, a test set and a model.
        protocol: Name of its protocol.
        notes: What to note beside.
    """
    loader: Any = cfg.get('test_dataloader') or {}
    steps = leaf_datasets(loader.get('dataset') or {})[0].get('pipeline') or []
    resizes = [step for step in steps if type_name(step) in RESIZES]
    scale: Any = resizes[0].get('scale') if len(resizes) == 1 else None
    sides: tuple[Any, Any] = (None, None) if scale is None else _sorted_pair(scale)
    benchmark: Any = cfg.get('benchmark') or {}
    test_cfg = cfg.model.get('test_cfg') or {}
    windows = test_cfg if test_cfg.get('mode') == 'slide' else {}
    decision = test_cfg.get('decision') or {}
    preprocessor = cfg.model.get('data_preprocessor') or {}
    mean, std = (tuple(preprocessor.get(key) or ()) or None for key in ('mean', 'std'))
    hooks: Any = cfg.get('custom_hooks') or []
    words = [hook.get('vocabulary') for hook in hooks if type_name(hook) == HOOK]
    constant = decision.get('background_score')
    return ProtocolSettings(
        protocol=protocol,
        benchmark=benchmark.get('name'),
        short_side=sides[0],
        long_side=sides[1],
        window=side(windows.get('crop_size')),
        stride=side(windows.get('stride')),
        window_divisor=test_cfg.get('window_divisor'),
        image_divisor=test_cfg.get('image_divisor'),
        words=words[0] if words else None,
        templates=cfg.model.get('templates', 'simple'),
        normalize_prompts=cfg.model.get('normalize_prompts', False),
        mean=mean,
        std=std,
        background_threshold=cfg.model.decode_head.get('background_threshold'),
        background_score=constant,
        logit_scale=decision.get('logit_scale', 40.0) if decision else None,
        prob_threshold=decision.get('prob_threshold'),
        area_threshold=decision.get('area_threshold'),
        pamr=test_cfg.get('pamr') or None,
        notes=notes,
    )


def _sorted_pair(scale: Any) -> tuple[Any, Any]:
    """The shorter and the longer of two sides, or one number for both."""
    pair = to_2tuple(scale)
    return min(pair), max(pair)


def side(size: Any) -> Any:
    """One number for a square."""
    return size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
