"""Train a model from a config."""

import argparse

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from mmseg.registry import RUNNERS

from pgseg_mm.utils.benchmark_data import require_data
from pgseg_mm.utils.launch import (
    add_launch_arguments,
    check_loading_of,
    data_errors,
    end_job,
    find_config,
    load_config,
    prepare_distributed,
)
from pgseg_mm.utils.training_checkpoints import load_checkpoints_safely


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
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind == 'AmpOptimWrapper':
        print('The config trains in mixed precision already; --amp changes nothing.')
        return
    if kind != 'OptimWrapper':
        raise ValueError(
            f'--amp works with an optim_wrapper of type OptimWrapper, the config has {kind}'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    args.config = find_config(parser, args.config)

    load_checkpoints_safely(trust=args.trust)
    cfg = load_config(args)
    cfg.resume = args.resume
    try:
        if args.amp:
            enable_amp(cfg)
        if args.compile:
            hooks = cfg.get('custom_hooks') or []
            cfg.custom_hooks = [*hooks, {'type': 'CompileHook', 'backend': args.compile}]
        require_data(cfg, 'val')
        prepare_distributed(cfg)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))

    check_loading_of(cfg)
    with data_errors():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.train()


if __name__ == '__main__':
    main()
    end_job()
