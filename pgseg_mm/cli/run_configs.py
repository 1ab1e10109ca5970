"""From the arguments of a script to the config of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config

from pgseg_mm.integration import announce_local_rank
from pgseg_mm.messages import described, first_line, quoted
from pgseg_mm.serialization.locating import check_source

from .arguments import require_file
from .checkpoint_sources import NO_CHECKPOINT, require_checkpoint
from .config_files import ConfigError, override, plain_folders, read_config_file
from .protocol_notes import override_noted

MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)
"""Hooks that mmengine has without being told, and that a config switches off with ``None``."""
SECTIONS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
"""Sections of a config that go together."""
MODEL_TEST_SETTINGS = (
    'mode',
    'crop_size',
    'stride',
    'window_divisor',
    'image_divisor',
    'resize',
    'pamr',
    'decision',
)
"""Settings of a model's ``test_cfg`` that are looked for in the Runner's."""
SWITCHED_OFF = ('env_cfg', 'randomness', 'log_level')
"""Settings that a Runner has defaults for, but only where they are not there at all."""


def find_config(parser: argparse.ArgumentParser, config: str) -> str:
    """Path of a config, or leave with the parser's usage message if there is none.

    Args:
        parser: Parser that reports the error.
        config: A file, or the name of a config that an installed package brings along, such as
            ``pgseg_mm::pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py``.

    Returns:
        Path of the file.
    """
    if '::' not in config:
        require_file(parser, 'config', config)
        return config
    try:
        with plain_folders():
            return get_config(config).filename
    except (AssertionError, ImportError, FileNotFoundError, ValueError) as error:
        parser.error(f'installed config not found: {config} ({first_line(error)})')
    except Exception as error:  # a config is a program, and fails in any way
        parser.error(f'config {config} cannot be read: {type(error).__name__}: {first_line(error)}')


def read_model_config(
    parser: argparse.ArgumentParser, args: argparse.Namespace, or_none: bool = False
) -> Config:
    """Config of a tool that takes a config and a checkpoint, with :func:`add_model_options`.

    Leaves with the parser's usage message if either is not there.

    Args:
        parser: Parser that reports the error.
        args: Parsed arguments; ``config`` becomes the path of the file.
        or_none: As :func:`.checkpoint_sources.require_checkpoint` has it.

    Returns:
        The config with the settings that were overridden.
    """
    args.config = find_config(parser, args.config)
    require_checkpoint(parser, args.checkpoint, or_none)
    cfg = read_with_settings(parser, args)
    require_model(parser, cfg)
    return cfg


def read_with_settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """Config of a tool with :func:`add_settings`; ``config`` is the path of the file.

    Leaves with the parser's usage message if it cannot be read.

    Args:
        parser: Parser that reports the error.
        args: Parsed arguments.

    Returns:
        The config with the settings that were overridden.
    """
    try:
        cfg = read_config_file(args.config)
        override(cfg, args.cfg_options)
    except ConfigError as error:
        parser.error(str(error))
    return cfg


def require_model(parser: argparse.ArgumentParser, cfg: Config) -> None:
    """Leave with the parser's usage message if a config has no model."""
    if not cfg.get('model'):
        parser.error('the config has no model; give one that has, such as those of configs/pgseg')


def _check_options(options: dict[str, Any] | None) -> None:
    """Refuse what would go to the Runner's loop, and is a setting of the model."""
    for name in options or {}:
        loop, _, setting = name.partition('.')
        if loop in ('test_cfg', 'val_cfg') and setting.partition('.')[0] in MODEL_TEST_SETTINGS:
            raise ConfigError(
                f'--cfg-options {name} is none of the loop but of the model; '
                f'give model.test_cfg.{setting}'
            )


def apply_settings(cfg: Config, options: dict[str, Any] | None) -> None:
    """Let the user's own settings override a config that a Runner is built of.

    Args:
        cfg: The config, changed in place.
        options: Settings by their dotted names.

    Raises:
        ConfigError: If one does not fit the config.
    """
    _check_options(options)
    override_noted(cfg, options)
    for name in SWITCHED_OFF:
        if name in cfg and cfg[name] is None:
            cfg.pop(name)


def load_config(
    args: argparse.Namespace, prepare: Callable[[Config], None] | None = None
) -> Config:
    """Read the config and apply the arguments of :func:`add_launch_arguments`.

    The work directory is, in this order: ``--work-dir``, the config's own, or
    ``work_dirs/NAME_OF_THE_CONFIG`` in the current directory.

    Args:
        args: Parsed arguments, with ``config`` among them.
        prepare: What changes the config before the user's own settings override it.

    Returns:
        The config, ready for the Runner but for what is particular to a tool.

    Raises:
        ConfigError: If the config cannot be read, or an option does not fit it.
    """
    announce_local_rank(args.local_rank)
    cfg = read_config_file(args.config)
    if prepare is not None:
        prepare(cfg)
    if args.launcher is not None:
        cfg.launcher = args.launcher
    elif cfg.get('launcher') is None:
        cfg.launcher = 'none'
    apply_settings(cfg, args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    elif not isinstance(cfg.work_dir, str):
        raise ConfigError(f'work_dir is a folder, got {described(cfg.work_dir)}')
    return cfg


def add_checks(cfg: Config, allow_partial: bool = False, new_schedule: bool = False) -> None:
    """Add the hooks that check a run before its first step, to a config of any kind.

    What the config says of them itself stays: ``None`` switches a hook off.

    Args:
        cfg: The config, changed in place.
        allow_partial: Whether to take a checkpoint that lacks weights of the model.
        new_schedule: Whether a resumed run goes on by the schedule of the config.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    # names with their scope are found from configs of other libraries, too
    hooks.setdefault('preflight', {'type': 'mmseg.PreflightHook'})
    hooks.setdefault('weights', {'type': 'mmseg.WeightsHook'})
    hooks.setdefault('schedule', {'type': 'mmseg.ScheduleHook'})
    if allow_partial:
        hooks['weights'] = {'type': 'mmseg.WeightsHook', 'allow_partial': True}
    if new_schedule:
        hooks['schedule'] = {'type': 'mmseg.ScheduleHook', 'source': 'config'}
    # mmengine takes None for its own hooks only
    cfg.default_hooks = {
        name: hook for name, hook in hooks.items() if hook is not None or name in MMENGINE_HOOKS
    }


def check_loading_of(cfg: Config) -> None:
    """Have evaluation by a config name damaged files, and do without labels where there are none.

    Args:
        cfg: The config, changed in place.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    if hooks.setdefault('checked_loading', {'type': 'mmseg.CheckedLoadingHook'}) is None:
        del hooks['checked_loading']  # switched off
    cfg.default_hooks = hooks


def check_resume(cfg: Config) -> None:
    """Refuse a ``resume`` that names a file, which a Runner would take for True alone.

    Args:
        cfg: The config.

    Raises:
        ConfigError: If it is neither true nor false.
    """
    if (given := cfg.get('resume')) not in (None, True, False):
        raise ConfigError(
            f'resume is True or False, got {quoted(given)}; to go on from a checkpoint that is '
            'not the latest of the work directory, set resume=True and load_from to its file'
        )


def require_weights(cfg: Config) -> None:
    """Refuse a config whose ``load_from`` names what is not there and cannot be had.

    Args:
        cfg: The config.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be downloaded or converted.
    """
    if cfg.get('load_from'):
        if not isinstance(cfg.load_from, str):
            raise ConfigError(f'load_from is a checkpoint, got {described(cfg.load_from)}')
        check_source(cfg.load_from, 'load_from')


def encoders_without_weights(cfg: Config) -> list[str]:
    """Names of the encoders of a model of words that start with no weights of their own.

    Args:
        cfg: The config.
    """
    model = cfg.get('model') or {}
    if 'text_encoder' not in model:
        return []
    encoders = [name for name in ('backbone', 'text_encoder') if name in model]
    return [name for name in encoders if not model[name].get('pretrained')]


def require_own_weights(cfg: Config, allow_partial: bool = False) -> None:
    """Refuse :data:`NO_CHECKPOINT` for a model of words whose weights would be random.

    Args:
        cfg: The config.
        allow_partial: Whether random weights will do.

    Raises:
        ConfigError: If an encoder starts without weights.
    """
    absent = encoders_without_weights(cfg)
    if absent and not allow_partial:
        raise ConfigError(
            f'{NO_CHECKPOINT} stands for the weights that the encoders of the config start with, '
            f'but it names none (pretrained) for {" and ".join(absent)}; give a checkpoint'
        )


def drop_unused(cfg: Config, needed: str) -> None:
    """Take away what a config has switched off in part, which the Runner would refuse.

    A config without validation, or a test by a training config, sets ``val_dataloader=None`` and
    the like, and need not do so with each section that belongs to it.

    Args:
        cfg: The config, changed in place.
        needed: What the tool runs: ``'train'`` or ``'test'``.

    Raises:
        ValueError: If a section is lacking of what is to be run.
    """
    for split, names in SECTIONS.items():
        absent = [name for name in names if cfg.get(name) is None]
        forgotten = [name for name in absent if name not in cfg and len(absent) < len(names)]
        if absent and split == needed:
            raise ValueError(f'the config has no {" and no ".join(absent)}')
        if forgotten and split == 'val' and needed == 'train' and forgotten == absent:
            raise ValueError(
                f'the config has a validation without {" and ".join(forgotten)}; add it, or set '
                'val_dataloader=None for a training without validation'
            )
        if absent:
            for name in names:
                cfg.pop(name, None)
