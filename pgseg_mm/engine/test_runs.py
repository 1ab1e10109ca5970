"""A test by a config with a loop of one's own: what tools that analyse a checkpoint share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from pgseg_mm.cli.benchmark_data import require_data
from pgseg_mm.cli.checkpoint_sources import NO_CHECKPOINT, require_checkpoint
from pgseg_mm.cli.folders import check_writable
from pgseg_mm.cli.processes import data_errors, prepare_distributed, refusals
from pgseg_mm.cli.protocol_choice import set_protocol
from pgseg_mm.cli.run_configs import (
    add_checks,
    check_loading_of,
    drop_unused,
    find_config,
    load_config,
    require_own_weights,
)
from pgseg_mm.evaluation import LabelMapError
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely

from .preflight import build_runner, build_test_loop


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add ``--split``.

    Args:
        parser: Parser to extend.
    """
    parser.add_argument(
        '--split',
        choices=['test', 'val'],
        default='test',
        help="which of the config's data sets (default: %(default)s)",
    )


def use_split(cfg: Config, split: str, loop: dict[str, Any]) -> None:
    """Have the Runner's test go over a split by a loop.

    Args:
        cfg: The config, changed in place.
        split: ``'test'`` or ``'val'``.
        loop: Config of the loop, which gets ``fp16`` as the split has it.

    Raises:
        ValueError: If the config lacks the split.
    """
    for name in (f'{split}_dataloader', f'{split}_evaluator'):
        if cfg.get(name) is None:
            raise ValueError(f'the config has no {name}')
    fp16 = (cfg.get(f'{split}_cfg') or {}).get('fp16', False)
    cfg.test_dataloader = cfg[f'{split}_dataloader']
    cfg.test_evaluator = cfg[f'{split}_evaluator']
    cfg.test_cfg = {**loop, 'fp16': fp16}


def run_test(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    prepare: Callable[[Config], None],
    choose: Callable[[Config], None] | None = None,
) -> tuple[Runner, Any]:
    """Run the test of a config, or leave with a sentence if it cannot be run.

    Args:
        parser: Parser that reports what is wrong.
        args: Its arguments: ``config``, which becomes the path of the file, ``checkpoint``,
            ``protocol``, ``split`` if the tool has it, and those of
            :func:`pgseg_mm.cli.arguments.add_launch_arguments`.
        prepare: Changes the config for the tool, and checks where it will write; a ``ValueError``
            of it is reported.
        choose: Applies what the tool's options choose before the protocol and the user's own
            settings override it.

    Returns:
        The Runner, and what its test loop returns.
    """
    args.config = find_config(parser, args.config)
    if args.checkpoint == NO_CHECKPOINT:
        args.checkpoint = None
    else:
        require_checkpoint(parser, args.checkpoint)
    load_checkpoints_safely(trust=args.trust)

    def choose_all(cfg: Config) -> None:
        if choose is not None:
            choose(cfg)
        set_protocol(cfg, args.protocol)

    try:
        cfg = load_config(args, choose_all)
        if getattr(args, 'split', 'test') != 'test' and cfg.get('applied_protocol'):
            raise ValueError(
                f'a protocol is applied to the test set, but --split is {args.split}; leave it '
                'out, and choose images by --cfg-options test_dataloader.dataset.ann_file=FILE'
            )
        cfg.load_from = args.checkpoint
        if args.checkpoint is None:
            require_own_weights(cfg, args.allow_partial)
        cfg.resume = False  # what a config says of a training
        prepare(cfg)
        drop_unused(cfg, 'test')
        add_checks(cfg, args.allow_partial)
        check_writable(cfg.work_dir, 'work_dir')
        require_data(cfg)
        prepare_distributed(cfg)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    check_loading_of(cfg)
    with refusals(parser), data_errors(LabelMapError):
        runner = build_runner(cfg)
        build_test_loop(runner)
        return runner, runner.test()
