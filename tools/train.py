"""Train a model from a config."""

import argparse

from mmengine.config import Config
from mmengine.device import get_device

from pgseg_mm.cli.arguments import add_launch_arguments
from pgseg_mm.cli.benchmark_data import require_data
from pgseg_mm.cli.parts import type_name
from pgseg_mm.cli.processes import data_errors, end_job, prepare_distributed, refusals
from pgseg_mm.cli.run_configs import (
    add_checks,
    check_loading_of,
    check_resume,
    drop_unused,
    find_config,
    load_config,
    require_weights,
)
from pgseg_mm.engine.preflight import build_loops, build_runner, check_writable
from pgseg_mm.evaluation import LabelMapError
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    add_launch_arguments(parser)
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on from the latest checkpoint in the work directory',
    )
    parser.add_argument(
        '--new-schedule',
        action='store_true',
        help="a resumed run goes on by the config's rates and schedule, not by its checkpoint's",
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train in mixed precision with dynamic loss scaling; needs an accelerator',
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='inductor',
        metavar='BACKEND',
        help='train with the blocks of the model compiled by torch.compile (default: %(const)s)',
    )
    return parser


def enable_amp(cfg: Config) -> None:
    """Turn a plain optimizer wrapper into MMEngine's mixed-precision one.

    Raises:
        ValueError: If there is no accelerator, or the config has another kind of wrapper.
    """
    if get_device() == 'cpu':
        raise ValueError(
            "--amp needs an accelerator and none was found (MMEngine's AmpOptimWrapper does not "
            'run on CPUs); leave --amp out to train in float32'
        )
    kind = type_name(cfg.optim_wrapper, 'OptimWrapper')
    if kind == 'AmpOptimWrapper':
        print('The config trains in mixed precision already; --amp changes nothing.')
        return
    if kind != 'OptimWrapper':
        raise ValueError(
            f'--amp works with an optim_wrapper of type OptimWrapper, the config has {kind}'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def enable_compilation(cfg: Config, backend: str) -> None:
    """Add a :class:`CompileHook`, or give the one that the config has this backend."""
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook) != 'CompileHook']
    cfg.custom_hooks = [*hooks, {'type': 'mmseg.CompileHook', 'backend': backend}]


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    args.config = find_config(parser, args.config)

    load_checkpoints_safely(trust=args.trust)
    try:
        cfg = load_config(args)
        check_resume(cfg)
        require_weights(cfg)
        if args.resume:
            cfg.resume = True
        drop_unused(cfg, 'train')
        if args.amp:
            enable_amp(cfg)
        if args.compile:
            enable_compilation(cfg, args.compile)
        add_checks(cfg, args.allow_partial, args.new_schedule)
        require_data(cfg, 'val')
        check_writable(cfg.work_dir, 'work_dir')
        prepare_distributed(cfg)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))

    check_loading_of(cfg)
    with refusals(parser), data_errors(LabelMapError):
        runner = build_runner(cfg)
        build_loops(runner)
        try:
            runner.train()
        except SystemExit as stop:  # of StopSignalHook, on all ranks
            if not isinstance(stop.code, int):
                raise
            return stop.code
    return 0


if __name__ == '__main__':
    end_job(main())
