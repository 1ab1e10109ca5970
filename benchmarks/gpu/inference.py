"""How fast and large prediction is, and where the time of an evaluation goes."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

from pgseg_mm.models.inference import window_scores
from pgseg_mm.models.segmentors import open_vocab_segmentor as segmentor_module

from ..groupvit_peer import PEER, load_peer
from ..inference import make_image
from ..inference_contestants import (
    ENCODER,
    PREDICT,
    Contestant,
    Entry,
    InferenceSettings,
    contestants,
)
from ..timing import MIB, Stopwatch, ratio
from .made_data import make_scenes
from .stage import GROUPVIT, TINY, Piece, Stage

PRECISIONS = {'float32': None, 'fp16': torch.float16, 'bf16': torch.bfloat16}
IMAGE_SIZES = {(448, 597): 6, (1024, 2048): 2}
"""Heights and widths, and how often each is predicted."""
CLASSES = 171
AGREEMENT = 0.9
"""Least share of pixels that get the class of float32 in half precision."""
EVALUATION_CONFIG = """
_base_ = {base!r}
data_root = {data!r}
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=({longest}, {short}), keep_ratio=True),
    dict(type='LoadWideAnnotations', ignore_index=255),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(
    batch_size=1, num_workers={workers}, persistent_workers={workers} > 0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        _delete_=True, type='BaseSegDataset', data_root=data_root, img_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        metainfo=dict(classes=data_root + 'classes.txt'), pipeline=test_pipeline))
test_evaluator = dict(_delete_=True, type='ZeroShotIoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='TestLoop')
val_dataloader = val_cfg = val_evaluator = None
custom_hooks = [dict(type='VocabularyHook')]
class_embed_cache = None
model = dict(class_embed_cache=None, decode_head=dict(background_threshold=None))
"""


def _config(stage: Stage) -> str:
    return str(TINY if stage.small else GROUPVIT)


def _run(case: Contestant, image: torch.Tensor, dtype: torch.dtype | None) -> Any:
    half = torch.autocast(image.device.type, dtype, enabled=dtype is not None)
    with torch.inference_mode(), half:
        return case.run(image)


def prediction(stage: Stage, size: tuple[int, int]) -> Piece:
    """Encoder, prediction and peer on an image, in each precision, turn about."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    settings = InferenceSettings(
        size, stage.size(CLASSES, 5), torch.get_num_threads(), stage.device, False
    )
    entries = [Entry(_config(stage))]
    if load_peer() and not stage.small:
        entries.append(Entry(_config(stage), peer=True))
    cases = [
        case
        for case in contestants(entries, settings)
        if case.output_size is None and case.task in (ENCODER, PREDICT)
    ]
    image = make_image(size, torch.device(stage.device))
    calls: dict[tuple[Contestant, str], Callable[[], Any]] = {
        (case, name): partial(_run, case, image, dtype)
        for case in cases
        for name, dtype in PRECISIONS.items()
    }
    watch = Stopwatch[tuple[Contestant, str]](stage.device)
    watch.run(calls, stage.size(IMAGE_SIZES.get(size, 2), 2))
    ours = next(case for case in cases if case.model != PEER and case.task == PREDICT)
    encoder = next(case for case in cases if case.model == ours.model and case.task == ENCODER)
    maps = {name: calls[ours, name]()[0].pred_sem_seg.data for name in PRECISIONS}
    agreement = {
        name: float((found == maps['float32']).float().mean()) for name, found in maps.items()
    }
    rows, figures = [], {}
    for (case, name), seconds in watch.seconds.items():
        own = watch.seconds[encoder, name] if case.model == ours.model else None
        to_encoder = ratio(seconds, own)['median'] if own else None
        if case is ours and to_encoder is not None:
            figures[f'predict {size[0]} {name}'] = to_encoder
        rows.append(
            {
                'model': case.model,
                'task': case.task,
                'precision': name,
                'ms': f'{1e3 * statistics.median(seconds):.1f}',
                '× its encoder': '' if to_encoder is None else f'{to_encoder:.3f}',
                'memory, MiB': _memory(stage, calls[case, name]),
                'classes as in float32': f'{100 * agreement[name]:.1f} %' if case is ours else '',
            }
        )
    least = min(agreement.values())
    return Piece(
        f'{size[0]} x {size[1]} px, {settings.num_classes} classes; at least {100 * least:.1f} % '
        'of the pixels get the class of float32',
        passed=least >= AGREEMENT,
        rows=rows,
        figures=figures,
    )


def _memory(stage: Stage, call: Callable[[], Any]) -> str:
    """Peak of what a call allocates beside what is there."""
    if stage.device == 'cpu':
        return ''
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return f'{(torch.cuda.max_memory_allocated() - before) / MIB:.0f}'


def _evaluation_config(stage: Stage, folder: Path, workers: int) -> Path:
    path = folder / f'evaluation_{workers}.py'
    text = EVALUATION_CONFIG.format(
        base=_config(stage),
        data=f'{folder}/data/',
        workers=workers,
        short=stage.size(448, 64),
        longest=stage.size(2048, 256),
    )
    path.write_text(text, encoding='utf-8')
    return path


def evaluation(stage: Stage, folder: Path, number: int) -> Piece:
    """tools/test.py from end to end."""
    config = _evaluation_config(stage, folder, stage.size(4, 1))
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    checkpoint = folder / 'random.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, checkpoint)
    begin = time.perf_counter()
    done = stage.command('tools/test.py', config, checkpoint, '--work-dir', folder / 'work')
    seconds = time.perf_counter() - begin
    text = done.stdout + done.stderr
    ended = re.findall(rf'\[ *{number}/{number}\].*?time: ([\d.]+)', text)
    if not ended:
        raise RuntimeError(f'tools/test.py did not say that it evaluated {number} images')
    (result,) = (folder / 'work').rglob('*.json')
    metrics = json.loads(result.read_text(encoding='utf-8').splitlines()[-1])
    return Piece(
        f'{1 / float(ended[-1]):.1f} images/s in its loop, mIoU {metrics["mIoU"]} with random '
        f'weights; {seconds:.0f} s in all, start included',
        passed=0 <= metrics['mIoU'] <= 100,
        figures={'test images/s': 1 / float(ended[-1])},
    )


@contextlib.contextmanager
def timed(stage: Stage, spent: dict[str, float], places: list[tuple[Any, str, str]]) -> Iterator:
    """Let methods and functions add the time that they take, the device's included, to a table."""
    undo = []
    for owner, name, what in places:
        original = getattr(owner, name)

        def measured(
            *args: Any, _call: Callable = original, _what: str = what, **kwargs: Any
        ) -> Any:
            stage.synchronize()
            begin = time.perf_counter()
            found = _call(*args, **kwargs)
            stage.synchronize()
            spent[_what] += time.perf_counter() - begin
            return found

        setattr(owner, name, measured)
        undo.append((owner, name, original))
    try:
        yield
    finally:
        for owner, name, original in undo:
            setattr(owner, name, original)


def where_the_time_goes(stage: Stage, folder: Path, number: int) -> Piece:
    """The evaluation of the first images, one thing after the other."""
    cfg = Config.fromfile(_evaluation_config(stage, folder, 0))
    cfg.test_dataloader.dataset.indices = number
    cfg.work_dir = str(folder / 'alone')
    cfg.load_from = str(folder / 'random.pth')
    cfg.log_level = 'WARNING'
    runner = Runner.from_cfg(cfg)
    spent: dict[str, float] = defaultdict(float)
    model = runner.model
    transforms: list[BaseTransform] = runner.test_dataloader.dataset.pipeline.transforms
    places = [
        *((transform, 'transform', 'decoding and resizing') for transform in transforms),
        (model.backbone, 'forward', 'encoder'),
        (model.decode_head, 'assign_pixels', 'groups of pixels and classes of groups'),
        (model.decode_head, 'classify_groups', 'groups of pixels and classes of groups'),
        (window_scores, 'stitch', 'stitching'),
        (segmentor_module, 'classify_pixels', 'resizing and argmax'),
        (runner.test_evaluator, 'process', 'metric'),
    ]
    begin = time.perf_counter()
    with timed(stage, spent, places):
        runner.test()
    total = time.perf_counter() - begin
    spent['all else'] = total - sum(spent.values())
    return Piece(
        f'{1e3 * total / number:.1f} ms an image, without workers and with a wait behind each part',
        passed=spent['encoder'] > 0 and spent['metric'] > 0,
        rows=[
            {
                'part': part,
                'ms an image': f'{1e3 * seconds / number:.2f}',
                'share': f'{100 * seconds / total:.1f} %',
            }
            for part, seconds in spent.items()
        ],
    )


def main(stage: Stage) -> None:
    for size in IMAGE_SIZES if not stage.small else ((64, 80),):
        stage.run(f'prediction, {size[0]} x {size[1]}', partial(prediction, stage, size))
        if stage.device == 'cuda':
            torch.cuda.empty_cache()
    number = stage.size(300, 6)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = (64, 80) if stage.small else (480, 640)
        make_scenes(folder / 'data', number, size, stage.size(CLASSES, 5))
        stage.run('tools/test.py', partial(evaluation, stage, folder, number))
        where = partial(where_the_time_goes, stage, folder, stage.size(100, 6))
        stage.run('where its time goes', where)


if __name__ == '__main__':
    main(Stage.from_command_line())
