"""Evaluate a checkpoint on the test set of a config."""

import argparse

from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import METRICS

from pgseg_mm.evaluation import ZeroShotIoUMetric
from pgseg_mm.utils.benchmark_data import image_folder, require_data
from pgseg_mm.utils.launch import (
    add_launch_arguments,
    check_loading_of,
    data_errors,
    end_job,
    find_config,
    load_config,
    prepare_distributed,
    require_file,
)
from pgseg_mm.utils.training_checkpoints import load_checkpoints_safely


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint',
        help='checkpoint file, or an address that MMEngine can load; none for the weights that the '
        "config's model starts with",
    )
    add_launch_arguments(parser)
    parser.add_argument(
        '--out', help='folder to write the predicted masks to, as PNG files with the label ids'
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='folder for pictures of predictions, truth and groups: SHOW_DIR/vis_data/vis_image',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show stays on each picture'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation, by the config's tta_model and tta_pipeline",
    )
    return parser


def enable_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Have the visualization hook draw predictions on the screen and into a folder.

    Without ``--show-dir`` the folder is the log's, WORK_DIR/TIMESTAMP/vis_data/vis_image.

    Raises:
        ValueError: If the config has no visualization hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a visualization hook in the config: '
            "default_hooks = dict(visualization=dict(type='PGSegVisualizationHook'))"
        )
    hook['draw'] = True
    if args.show:
        hook['show'] = True
        hook['wait_time'] = args.wait_time
    if args.show_dir:
        cfg.visualizer['save_dir'] = args.show_dir


def enable_tta(cfg: Config) -> None:
    """Wrap the model and swap the test pipeline for the config's test-time augmentation.

    Raises:
        ValueError: If the config does not say how to augment.
    """
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(f'--tta needs {" and ".join(missing)} in the config')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def write_predictions(cfg: Config, folder: str) -> None:
    """Have the IoU metric of the config write predicted masks to a folder.

    Ours writes the label ids of the benchmark, into sub-folders like those of the images.

    Raises:
        ValueError: If the config has no such metric.
    """
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, list):
        evaluators = [evaluators]
    writers = [evaluator for evaluator in evaluators if evaluator['type'].endswith('IoUMetric')]
    if not writers:
        raise ValueError('--out needs an IoUMetric in the test_evaluator of the config')
    images = image_folder(cfg.test_dataloader.dataset)
    for writer in writers:
        writer['output_dir'] = folder
        if issubclass(METRICS.get(writer['type']) or object, ZeroShotIoUMetric):
            writer.setdefault('image_root', images)


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    args.config = find_config(parser, args.config)
    if args.checkpoint == 'none':
        args.checkpoint = None
    elif '://' not in args.checkpoint:
        require_file(parser, 'checkpoint', args.checkpoint)

    load_checkpoints_safely(trust=args.trust)
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    try:
        if args.show or args.show_dir:
            enable_visualization(cfg, args)
        if args.tta:
            enable_tta(cfg)
        if args.out is not None:
            write_predictions(cfg, args.out)
        require_data(cfg)
        prepare_distributed(cfg)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))

    check_loading_of(cfg)
    with data_errors():
        Runner.from_cfg(cfg).test()


if __name__ == '__main__':
    main()
    end_job()
