"""Evaluate a checkpoint on the test set of a config."""

import argparse
from functools import partial

from mmengine.config import Config
from mmseg.registry import METRICS

from pgseg_mm.apis.naming_choice import add_naming, set_naming_rule
from pgseg_mm.cli.arguments import add_launch_arguments
from pgseg_mm.cli.benchmark_data import image_folder, leaf_datasets
from pgseg_mm.cli.checkpoint_sources import SOURCES
from pgseg_mm.cli.folders import check_writable
from pgseg_mm.cli.parts import is_kind, type_name
from pgseg_mm.cli.processes import end_job
from pgseg_mm.cli.protocol_choice import add_protocol
from pgseg_mm.cli.protocols import deciding_threshold
from pgseg_mm.cli.run_configs import drop_unused
from pgseg_mm.engine.test_runs import run_test
from pgseg_mm.evaluation import ZeroShotIoUMetric

DEFAULT_WAIT = 2.0
"""Seconds."""
WARNING = (
    '{}={} of the config is for scores of another naming rule; '
    'tools/analysis_tools/sweep_threshold.py --naming finds one for this'
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint',
        help=f"{SOURCES}; none for the weights that the config's model starts with",
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
        '--wait-time',
        type=float,
        help="seconds that --show stays on each picture (default: the config's, or 2)",
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation, by the config's tta_model and tta_pipeline",
    )
    add_protocol(parser)
    add_naming(parser)
    return parser


def enable_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Have the visualization hook draw predictions on the screen and into a folder.

    Without ``--show-dir`` the folder is the log's, WORK_DIR/TIMESTAMP/vis_data/vis_image.

    Raises:
        ValueError: If the config has no visualization hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a visualization hook in the config: '
            "default_hooks = dict(visualization=dict(type='PGSegVisualizationHook'))"
        )
    if cfg.get('visualizer') is None:
        raise ValueError(
            '--show and --show-dir need a visualizer in the config: '
            "visualizer = dict(type='PGSegVisualizer', vis_backends=[dict(type='LocalVisBackend')])"
        )
    hook['draw'] = True
    if args.show:
        hook['show'] = True
        if args.wait_time is not None:
            hook['wait_time'] = args.wait_time
        else:
            hook.setdefault('wait_time', DEFAULT_WAIT)
    if args.show_dir:
        cfg.visualizer['save_dir'] = args.show_dir


def enable_tta(cfg: Config) -> None:
    """Wrap the model and swap the test pipeline for the config's test-time augmentation.

    Raises:
        ValueError: If the config does not say how to augment.
    """
    missing = [key for key in ('tta_model', 'tta_pipeline') if not cfg.get(key)]
    if missing:
        raise ValueError(f'--tta needs {" and ".join(missing)} in the config')
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
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
    writers = [evaluator for evaluator in evaluators if type_name(evaluator).endswith('IoUMetric')]
    if not writers:
        raise ValueError('--out needs an IoUMetric in the test_evaluator of the config')
    images = image_folder(cfg.test_dataloader.dataset)
    for writer in writers:
        writer['output_dir'] = folder
        if is_kind(writer, METRICS, ZeroShotIoUMetric):
            writer.setdefault('image_root', images)


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    """Have the test do what the options say.

    Raises:
        ValueError: If the config lacks what an option needs, or nothing can be written to a folder.
    """
    drop_unused(cfg, 'test')  # what the options change must be there
    by_protocol = cfg.get('applied_protocol') is not None  # which tells what it is for
    if args.other_rule and not by_protocol and deciding_threshold(cfg)[0] is not None:
        print(WARNING.format(*deciding_threshold(cfg)))
    if args.show or args.show_dir:
        enable_visualization(cfg, args)
    if args.tta:
        if by_protocol:
            raise ValueError("the config's protocol says how large images are; leave --tta out")
        enable_tta(cfg)
    if args.out is not None:
        write_predictions(cfg, args.out)
    for folder, flag in ((args.out, '--out'), (args.show_dir, '--show-dir')):
        if folder is not None:
            check_writable(folder, flag)


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    if args.wait_time is not None and not args.show:
        parser.error('--wait-time is how long --show stays on a picture; give --show, too')
    if args.tta and args.protocol:
        parser.error('--protocol says how large images are; leave --tta out')

    def choose(cfg: Config) -> None:
        args.other_rule = set_naming_rule(cfg, args.naming)

    run_test(parser, args, partial(prepare, args=args), choose)


if __name__ == '__main__':
    main()
    end_job()
