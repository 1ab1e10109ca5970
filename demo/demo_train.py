"""One run of the demo: evaluate, train, evaluate again, draw."""

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from demo_benchmark import times_reference
from demo_config import existing_config, make_config
from demo_data import ATTRIBUTION, Scenes
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from pgseg_mm.serialization.atomic_files import read_state, write_json

METRIC_WORDS = {'mIoU': 'all classes', 'mIoU_objects': 'objects', 'mIoU_textures': 'textures'}
SHEET_IMAGES = 8


@dataclass(frozen=True)
class Run:
    """A training run and where it leaves its files."""

    config: Path
    data: Path
    out: Path
    scenes: Scenes
    seed: int = 0
    max_iters: int | None = None
    options: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The run in words."""
        return f'seed {self.seed}' + ', shuffled captions' * self.scenes.shuffle_captions

    @property
    def folder_name(self) -> str:
        """The run as the name of a folder."""
        return f'seed{self.seed}' + '_shuffled' * self.scenes.shuffle_captions

    @property
    def summary_file(self) -> Path:
        """Where all the numbers of the run are, once it is finished."""
        return self.out / 'summary.json'

    def make_config(self) -> Config:
        """The run's config."""
        return make_config(
            existing_config(self.config),
            data=self.scenes.folder(self.data),
            work_dir=self.out / 'train',
            seed=self.seed,
            image_size=self.scenes.image_size,
            max_iters=self.max_iters,
            options=self.options,
        )

    def settings(self) -> dict[str, Any]:
        """What decides the outcome, to tell whether a finished run is this one."""
        cfg = self.make_config().to_dict()
        del cfg['work_dir']
        text = json.dumps(cfg, sort_keys=True, default=str)
        return {
            'config': self.config.name,
            'options': {key: str(value) for key, value in (self.options or {}).items()},
            'config_sha256': hashlib.sha256(text.encode()).hexdigest(),
            'seed': self.seed,
            'iterations': cfg['train_cfg']['max_iters'],
            'scenes': asdict(self.scenes),
        }

    def finished(self) -> dict[str, Any] | None:
        """The summary of this run, if it has finished with the same settings before."""
        if not self.summary_file.is_file():
            return None
        summary = read_state(self.summary_file, 'the run is done again')
        if not summary or summary.get('settings') != self.settings() or not summary.get('files'):
            return None  # without files it came to an end before its pictures
        return summary


class QuietRunner(Runner):
    """A Runner that shows warnings only; the rest is in its log file."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
        return logger


class DemoHook(Hook):
    """Evaluates the untrained model and reports how the training gets on.

    Args:
        name: The run, in words.
    """

    priority = 'LOWEST'

    def __init__(self, name: str) -> None:
        self.name = name
        self.untrained: dict[str, float] = {}
        self.untrained_seconds = 0.0
        self.start = 0.0

    def before_train(self, runner: Runner) -> None:
        """Evaluate the initialised weights; the training draws the same random numbers after."""
        self._say('evaluating the untrained model')
        start = time.perf_counter()
        with torch.random.fork_rng():
            self.untrained = pick_metrics(runner.test_loop.run())
        self.start = time.perf_counter()
        self.untrained_seconds = self.start - start
        self._say(f'untrained: {in_words(self.untrained)}')
        self._say(f'training for {runner.max_iters} iterations')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        """Report the loss ten times on the way."""
        done = runner.iter + 1
        if done % max(runner.max_iters // 10, 1) == 0:
            left = (time.perf_counter() - self.start) / done * (runner.max_iters - done)
            loss = outputs['loss'].item()
            self._say(
                f'iteration {done}/{runner.max_iters}, loss {loss:.3f}, about {left:.0f} s to go'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report a validation."""
        self._say(f'after {runner.iter} iterations: {in_words(pick_metrics(metrics or {}))}')

    def _say(self, text: str) -> None:
        print(f'[{self.name}] {text}', flush=True)


def pick_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that the demo reports."""
    return {name: float(metrics[name]) for name in METRIC_WORDS}


def in_words(metrics: dict[str, float]) -> str:
    """Metrics on one line."""
    return 'mIoU ' + ', '.join(f'{metrics[name]:.1f} {word}' for name, word in METRIC_WORDS.items())


def train(run: Run, command: str) -> dict[str, Any]:
    """Evaluate, train, evaluate the last weights, draw, and write ``summary.json``.

    Args:
        run: What to train; its data must be there.
        command: Command line, for the summary.

    Returns:
        The summary.
    """
    # importing the models takes seconds, which --help and --resume need not wait for
    from pgseg_mm.cli.provenance import describe_machine
    from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely

    start = time.perf_counter()
    run.out.mkdir(parents=True, exist_ok=True)
    run.summary_file.unlink(missing_ok=True)
    cfg = run.make_config()
    cfg.experiment_name = f'demo_{run.folder_name}'
    load_checkpoints_safely()
    runner = QuietRunner.from_cfg(cfg)
    hook = DemoHook(run.name)
    runner.register_hook(hook)
    runner.train()
    trained_at = time.perf_counter()
    trained = pick_metrics(runner.test())
    tested_at = time.perf_counter()
    print(f'[{run.name}] trained: {in_words(trained)}', flush=True)

    summary = {
        'settings': run.settings(),
        'metrics': {'untrained': hook.untrained, 'trained': trained},
        'ratios': {
            name: times_reference(trained[name], hook.untrained[name]) for name in METRIC_WORDS
        },
        'seconds': {
            'untrained_evaluation': round(hook.untrained_seconds, 1),
            'training_with_validation': round(trained_at - hook.start, 1),
            'trained_evaluation': round(tested_at - trained_at, 1),
            'total': round(time.perf_counter() - start, 1),
        },
        'files': {},
        'machine': describe_machine(),
        'command': command,
        'attribution': ATTRIBUTION,
    }
    write_json(run.summary_file, summary, indent=2)  # whatever becomes of the pictures
    files = draw_run(run, runner)
    summary['files'] = {name: _relative(path, run.out) for name, path in files.items()}
    summary['seconds']['total'] = round(time.perf_counter() - start, 1)
    write_json(run.summary_file, summary, indent=2)
    return summary


def draw_run(run: Run, runner: Runner) -> dict[str, str | Path]:
    """Draw what a run has learned and how, and name the files that it leaves.

    Returns:
        Paths of the checkpoint, both pictures and the log.
    """
    from pgseg_mm.serialization.work_folders import find_checkpoint
    from pgseg_mm.visualization import draw_loss_curve, draw_segmentation_sheet

    sheet, losses = run.out / 'sheet.png', run.out / 'losses.png'
    dataset = runner.test_dataloader.dataset
    images = range(min(SHEET_IMAGES, len(dataset)))
    draw_segmentation_sheet(runner.model, dataset, images, sheet, credit=ATTRIBUTION)
    draw_loss_curve(runner.log_dir, losses)
    return {
        'checkpoint': find_checkpoint(runner.work_dir),
        'segmentation': sheet,
        'losses': losses,
        'log': Path(runner.log_dir) / f'{runner.timestamp}.log',
    }


def _relative(path: str | Path, folder: Path) -> str:
    return Path(path).resolve().relative_to(folder.resolve()).as_posix()
