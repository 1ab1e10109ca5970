"""Find the background threshold of a data set in one pass over its images.

    python tools/analysis_tools/sweep_threshold.py CONFIG CHECKPOINT --thresholds 0.1 0.2 0.3

Each window goes through the encoder once; all thresholds follow from the same scores. Each
threshold gets the metric that tools/test.py would print. It is the head's background_threshold, or
the background_score or prob_threshold of test_cfg.decision, as most protocols have it.

The search uses the labels. Search on other images than those that are evaluated, such as a part of
the training split (--cfg-options test_dataloader.dataset.ann_file=...): at a threshold that was
found on them, their result is not zero-shot any more.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, TestLoop, autocast
from mmengine.utils.progressbar import ProgressBar
from mmseg.registry import LOOPS

from pgseg_mm.apis.naming_choice import add_naming, set_naming_rule
from pgseg_mm.cli.arguments import add_launch_arguments
from pgseg_mm.cli.checkpoint_sources import SOURCES
from pgseg_mm.cli.folders import check_writable_file
from pgseg_mm.cli.processes import end_job
from pgseg_mm.cli.protocol_choice import add_protocol
from pgseg_mm.cli.protocols import deciding_threshold
from pgseg_mm.datasets.transforms.checked_loading import has_labels
from pgseg_mm.engine.test_runs import add_split, run_test, use_split
from pgseg_mm.evaluation import LabelMapError
from pgseg_mm.serialization.atomic_files import write_json, write_text

THRESHOLDS = [round(0.05 * i, 2) for i in range(1, 20)]
SCORE = 'mIoU'


@LOOPS.register_module(force=True)
class ThresholdSweepLoop(TestLoop):
    """Evaluates a PGSeg at several background thresholds at once.

    Args:
        runner: The runner.
        dataloader: Config of the images.
        evaluator: Config of the metric, of which each threshold gets a copy.
        thresholds: Background thresholds.
        fp16: Whether to evaluate in half precision.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        evaluator: dict | list,
        thresholds: Sequence[float],
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.thresholds = list(thresholds)
        self.evaluators = [deepcopy(self.evaluator) for _ in self.thresholds]

    def run(self) -> list[dict[str, float]]:
        """Go through the images once.

        Returns:
            For each threshold its metrics.
        """
        if not has_labels(self.dataloader.dataset):
            raise LabelMapError(
                'no image of the data set has a label map, and thresholds are compared by labels'
            )
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        bar = ProgressBar(len(self.dataloader)) if is_main_process() else None
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
            if bar is not None:
                bar.update()
        size = len(self.dataloader.dataset)
        with _quiet():
            rows = [
                {'threshold': threshold}
                | {name: float(value) for name, value in evaluator.evaluate(size).items()}
                for threshold, evaluator in zip(self.thresholds, self.evaluators, strict=True)
            ]
        self.runner.call_hook('after_test_epoch', metrics=best_of(rows))
        self.runner.call_hook('after_test')
        return rows

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Segment a batch at all thresholds."""
        model = (
            self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        )
        batch = model.data_preprocessor(data_batch, False)
        samples = batch['data_samples']
        rules = model.pixel_rules()
        by_head = rules.decision is None  # else scores are the same at all thresholds
        with autocast(enabled=self.fp16):
            segmented = model.segment(
                batch['inputs'], samples, self.thresholds if by_head else None
            )
        for i, threshold in enumerate(self.thresholds):
            if rules.decision is not None:
                rules = rules._replace(decision=rules.decision.with_threshold(threshold))
            for scores, sample in zip(segmented, samples, strict=True):
                own = scores.with_background(i, len(self.thresholds)) if by_head else scores
                model.fill_sample(sample, [own], rules)
                self.evaluators[i].process([sample], data_batch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tables of single classes, one for each threshold, out of the log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the model and of a data set with a background')
    parser.add_argument('checkpoint', help=SOURCES)
    parser.add_argument(
        '--thresholds',
        type=float,
        nargs='+',
        default=THRESHOLDS,
        metavar='VALUE',
        help='thresholds to try (default: 0.05, 0.1, ..., 0.95)',
    )
    add_split(parser)
    add_protocol(parser)
    add_naming(parser)
    parser.add_argument('--json', type=Path, help='write all figures here')
    parser.add_argument('--markdown', type=Path, help='write the table here, too')
    add_launch_arguments(parser)
    return parser


def prepare(cfg: Config, split: str, thresholds: Sequence[float]) -> None:
    """Have the Runner's test try all thresholds on a split.

    Raises:
        ValueError: If the config lacks the split or finds no background by threshold, or a
            threshold is not positive, or no probability where it is one.
    """
    if min(thresholds) <= 0:
        raise ValueError(f'thresholds must be positive, got {min(thresholds)}')
    use_split(cfg, split, dict(type='ThresholdSweepLoop', thresholds=list(thresholds)))
    name, _ = deciding_threshold(cfg)
    if name is None:
        raise ValueError(
            'the config finds no background by threshold; set background_threshold of the '
            'decode_head, or prob_threshold of test_cfg.decision, to any value, and use a data set '
            'whose class 0 is the background'
        )
    if name == 'prob_threshold' and max(thresholds) > 1:
        raise ValueError(f'prob_threshold is at most 1, got {max(thresholds)}; see --thresholds')


def best_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Row of the highest score, the first of several; a score that is not a number is none."""
    score = score_of(rows)
    return max(rows, key=lambda row: row[score] if row[score] == row[score] else -1.0)


def score_of(rows: Sequence[dict[str, float]]) -> str:
    """Metric that thresholds are compared by: mIoU, or else the first mean over classes."""
    names = [name for name in rows[0] if name != 'threshold']
    plain = {name: name.rpartition('/')[2] for name in names}  # without a metric's prefix
    scores = [name for name in names if plain[name] == SCORE]
    means = [name for name in names if plain[name].startswith('m')]
    return next(iter([*scores, *means, *names]))


def report(rows: Sequence[dict[str, float]], data: str, name: str) -> str:
    """The table in Markdown, and what it means.

    Args:
        rows: Metrics of each threshold.
        data: What images it was.
        name: What the threshold is called in a config.
    """
    best, score = best_of(rows), score_of(rows)
    names = [name for name in rows[0] if name != 'threshold']
    lines = [f'| threshold | {" | ".join(names)} |', f'|{"---|" * (len(names) + 1)}']
    for row in rows:
        cells = [f'{row["threshold"]:g}', *(f'{row[name]:.2f}' for name in names)]
        mark = '**' if row is best else ''
        lines.append('|' + ''.join(f' {mark}{cell}{mark} |' for cell in cells))
    lines += [
        '',
        f'Best: {name}={best["threshold"]:g}, {score} {best[score]:.2f}.',
        f'The labels of {data} were used to find it: on these images a result at this threshold '
        'is not zero-shot.',
    ]
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()

    def prepare_all(cfg: Config) -> None:
        prepare(cfg, args.split, args.thresholds)
        for path, flag in ((args.json, '--json'), (args.markdown, '--markdown')):
            if path is not None:
                check_writable_file(path, flag)

    runner, rows = run_test(parser, args, prepare_all, partial(set_naming_rule, naming=args.naming))
    if not is_main_process():
        return
    dataset = runner.test_dataloader.dataset
    data = f'{type(dataset).__name__} ({args.split}, {len(dataset)} images)'
    name = deciding_threshold(runner.cfg)[0] or 'threshold'
    text = report(rows, data, name)
    print(f'\n{text}')
    if args.markdown is not None:
        write_text(args.markdown, text)
    if args.json is not None:
        about = {'config': args.config, 'checkpoint': args.checkpoint, 'labels_of': data}
        about |= {'setting': name, 'protocol': runner.cfg.get('applied_protocol')}
        write_json(args.json, {**about, 'best': best_of(rows), 'thresholds': rows})


if __name__ == '__main__':
    main()
    end_job()
