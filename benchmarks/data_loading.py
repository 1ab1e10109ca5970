"""Measure data loading alone, in images per second and core, against plain webdataset and Pillow.

All contestants read the same pairs, decode, crop, flip, tokenise and collate them; they take turns
within each round. Without --data, pairs are made first: JPEG images of gradients and noise.

Example:
    python -m benchmarks.data_loading --json docs/benchmarks/raw/data_loading.json \\
        --markdown docs/benchmarks/data_loading.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from pgseg_mm.cli.provenance import describe
from pgseg_mm.datasets import (
    ImageTextDataset,
    ResumableSampler,
    SeededDataset,
    WebImageTextDataset,
)
from pgseg_mm.serialization.atomic_files import read_state, write_json, write_text

from .outputs import make_parser, origin, parse, write_results
from .parallel import in_processes

PLAIN_LOADER = 'webdataset, Pillow and torchvision'
OURS_SHARDS = 'WebImageTextDataset'
OURS_FILES = 'ImageTextDataset'
OURS_SHARDS_PILLOW = 'WebImageTextDataset, decoding with Pillow'

LOADING_EXPLAINED = """\
Each reads the same pairs, decodes them, crops and resizes them at random to 224 x 224 (bicubic, by
Pillow), flips, tokenises and collates. Ours decode with OpenCV, MMCV's default, unless it says
otherwise. They also seed every sample, read the size from the header before decoding, and keep a
record of what was skipped and where a resumed run would go on.

"Per core" is per second that a processor worked, so that other work on the machine counts for
little; images/s are by the clock. Numbers are medians; the ratio is the median of the ratios per
core within a round, with the lowest and highest in brackets; above 1 is faster than without this
project.
"""
WORDS = 'a photo of the red small old dog house tree on under near river street and'
SHUFFLE = 1000
CROP = dict(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))


def make_pairs(folder: Path, number: int, size: tuple[int, int], shards: int) -> None:
    """Write pairs as files with a list, and the same ones as shards."""
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    rows = in_processes(partial(_make_pair, folder / 'images', size), number)
    for shard, part in enumerate(np.array_split(np.arange(number), shards)):
        with webdataset.TarWriter(str(folder / f'{shard:05d}.tar')) as writer:
            for index in part:
                image = (folder / 'images' / rows[index]['image']).read_bytes()
                sample = {'jpg': image, 'txt': rows[index]['caption']}
                writer.write({'__key__': f'{index:06d}', **sample})
    # last, since it says that all the others are there
    write_text(folder / 'pairs.jsonl', ''.join(json.dumps(row) + '\n' for row in rows))


def _make_pair(folder: Path, size: tuple[int, int], index: int) -> dict[str, str]:
    rng = np.random.default_rng(index)
    width, height = size
    y, x = np.mgrid[:height, :width]
    slopes = rng.uniform(0, 0.5, (2, 3))
    pixels = x[..., None] * slopes[0] + y[..., None] * slopes[1] + rng.normal(0, 12, 3)
    noise = rng.normal(0, 12, (height, width, 1))
    image = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
    name = f'{index:06d}.jpg'
    image.save(folder / name, quality=85)
    return {'image': name, 'caption': ' '.join(rng.choice(WORDS.split(), size=10))}


def pipeline(backend: str) -> list[dict[str, Any]]:
    """A crop and a flip at random, as published but for the filter of the crop."""
    return [
        dict(type='DecodeImage', imdecode_backend=backend),
        dict(
            type='mmpretrain.RandomResizedCrop',
            scale=224,
            crop_ratio_range=CROP['scale'],
            aspect_ratio_range=CROP['ratio'],
            backend='pillow',
            interpolation='bicubic',
        ),
        dict(type='RandomFlip', prob=0.5),
        dict(type='TokenizeCaption', context_length=77),
        dict(type='PackImageTextInputs'),
    ]


class PlainTransform:
    """The same work by torchvision on Pillow images."""

    def __init__(self) -> None:
        self.image = v2.Compose(
            [
                v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC, **CROP),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
            ]
        )
        self.tokenizer = SimpleTokenizer()

    def __call__(self, sample: tuple[Image.Image, str]) -> tuple[torch.Tensor, torch.Tensor]:
        image, caption = sample
        return self.image(image), self.tokenizer([caption])[0]


def plain_loader(shards: list[str], batch_size: int, workers: int) -> Iterable[Any]:
    """What a script without MMEngine would write."""
    dataset = (
        webdataset.WebDataset(
            shards, shardshuffle=len(shards), workersplitter=webdataset.split_by_worker
        )
        .shuffle(SHUFFLE)
        .decode('pil')
        .to_tuple('jpg', 'txt')
        .map(PlainTransform())
    )
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers)


def our_loader(
    dataset: Any, batch_size: int, workers: int, infinite: bool = False
) -> Iterable[Any]:
    """As the Runner builds it."""
    if getattr(dataset, 'is_stream', False):
        dataset.set_progress(batch_size)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        sampler=ResumableSampler(dataset, seed=0, infinite=infinite),
        collate_fn=default_collate,
    )


def contestants(
    folder: Path, number: int, batch_size: int, workers: int
) -> dict[str, Callable[[], Iterable[Any]]]:
    """For each contestant what makes its loader."""
    shards = sorted(str(path) for path in folder.glob('*.tar'))

    def from_shards(backend: str) -> Iterable[Any]:
        source = dict(name='pairs', shards=shards, samples=number)
        dataset = WebImageTextDataset(source, pipeline(backend), shuffle_block=SHUFFLE)
        return our_loader(dataset, batch_size, workers)

    def from_files(backend: str) -> Iterable[Any]:
        dataset = ImageTextDataset(
            'pairs.jsonl',
            data_root=str(folder),
            data_prefix=dict(img_path='images'),
            pipeline=pipeline(backend),
        )
        return our_loader(SeededDataset(dataset), batch_size, workers)

    return {
        PLAIN_LOADER: lambda: plain_loader(shards, batch_size, workers),
        OURS_SHARDS: lambda: from_shards('cv2'),
        OURS_FILES: lambda: from_files('cv2'),
        OURS_SHARDS_PILLOW: lambda: from_shards('pillow'),
    }


def time_epoch(loader: Iterable[Any], number: int) -> tuple[float, float]:
    """Seconds on the clock, and of the processors, of reading a whole epoch."""
    read = 0
    clock, processors = time.perf_counter(), processor_seconds()
    for batch in loader:
        read += len(batch['inputs'] if isinstance(batch, dict) else batch[0])
    seconds = time.perf_counter() - clock, processor_seconds() - processors
    if read != number:
        raise RuntimeError(f'{read} images were read, not {number}.')
    return seconds


def processor_seconds() -> float:
    """Time that this process and its ended workers have computed."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def stages(folder: Path, number: int) -> dict[str, float]:
    """Milliseconds a sample within each transform, and in all else, for shards."""
    shards = sorted(str(path) for path in folder.glob('*.tar'))
    dataset = WebImageTextDataset(
        dict(name='pairs', shards=shards, samples=number), pipeline('cv2')
    )
    spent: dict[str, float] = {}

    def timed(transform: Any) -> None:
        call = transform.transform

        def run(results: dict[str, Any]) -> Any:
            begin = time.process_time()
            results = call(results)
            name = type(transform).__name__
            spent[name] = spent.get(name, 0) + time.process_time() - begin
            return results

        transform.transform = run

    for transform in dataset.pipeline.transforms:
        timed(transform)
    begin = time.process_time()
    for _ in our_loader(dataset, 64, 0):
        pass
    spent['reading, seeding, checking and collating'] = (
        time.process_time() - begin - sum(spent.values())
    )
    return {name: 1000 * seconds / number for name, seconds in spent.items()}


def measure(args: argparse.Namespace, folder: Path, number: int) -> dict[str, Any]:
    """Rounds of all contestants, turn about."""
    entries = contestants(folder, number, args.batch_size, args.workers)
    speeds: dict[str, list[float]] = {name: [] for name in entries}
    clock: dict[str, list[float]] = {name: [] for name in entries}
    for turn in range(-1, args.rounds):  # the first turn warms up
        names = list(entries) if turn % 2 else list(entries)[::-1]
        for name in names:
            seconds, computed = time_epoch(entries[name](), number)
            if turn >= 0:
                speeds[name].append(number / computed)
                clock[name].append(number / seconds)
                print(f'{name}: {number / computed:.0f} images/s per core', file=sys.stderr)
    ratios = {
        name: [one / plain for one, plain in zip(speeds[name], speeds[PLAIN_LOADER], strict=True)]
        for name in entries
    }
    return {
        'images_per_core_second': speeds,
        'images_per_second': clock,
        'ratios': ratios,
        'milliseconds': stages(folder, number),
    }


def report(result: dict[str, Any]) -> str:
    """Document with the tables and how they were made."""
    settings = result['settings']
    width, height = settings['size']
    where = 'in the main process' if not settings['workers'] else f'{settings["workers"]} workers'
    lines = [
        '# Speed of data loading',
        '',
        f'{settings["samples"]} JPEG images of {width} x {height}, in {settings["shards"]} shards '
        f'or as files, batches of {settings["batch_size"]}, {where}, {settings["rounds"]} rounds.',
        '',
        '| | images/s per core | ratio | images/s |',
        '| --- | --: | --: | --: |',
    ]
    for name, speeds in result['images_per_core_second'].items():
        ratios = result['ratios'][name]
        lines.append(
            f'| {name} | {statistics.median(speeds):.0f} | {statistics.median(ratios):.2f} '
            f'({min(ratios):.2f} to {max(ratios):.2f}) | '
            f'{statistics.median(result["images_per_second"][name]):.0f} |'
        )
    lines += ['', LOADING_EXPLAINED, f'Where the time goes ({OURS_SHARDS}):', '']
    lines += ['| part | ms a sample |', '| --- | --: |']
    lines += [f'| {name} | {value:.2f} |' for name, value in result['milliseconds'].items()]
    return '\n'.join([*lines, '', *describe(result), ''])


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, 'file for the table')
    parser.add_argument('--data', type=Path, help='folder for the pairs; kept, and used again')
    parser.add_argument('--samples', type=int, default=2000)
    parser.add_argument('--shards', type=int, default=8)
    parser.add_argument('--size', type=int, nargs=2, default=(500, 400), metavar=('W', 'H'))
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--workers', type=int, default=0, help='processes; 0 reads in this one')
    parser.add_argument('--rounds', type=int, default=7)
    return parse(parser)


def ensure_pairs(args: argparse.Namespace, folder: Path) -> None:
    """Make the pairs, or take those that are there if they are of the same settings."""
    wanted = {name: getattr(args, name) for name in ('samples', 'shards')}
    wanted['size'] = list(args.size)
    note = folder / 'settings.json'
    found = read_state(note, 'the pairs are made anew') if note.is_file() else None
    if found is not None and found != wanted:
        raise SystemExit(f'{folder} holds pairs of {found}, not of {wanted}; name another folder')
    if found is None or not (folder / 'pairs.jsonl').is_file():
        write_json(note, wanted)
        make_pairs(folder, args.samples, tuple(args.size), args.shards)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    init_default_scope('mmseg')
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary) / 'pairs'
        ensure_pairs(args, folder)
        number = args.samples
        result = measure(args, folder, number)
    result['settings'] = {
        'samples': number,
        'shards': args.shards,
        'size': list(args.size),
        'batch_size': args.batch_size,
        'workers': args.workers,
        'rounds': args.rounds,
    }
    result |= origin('data_loading', 'webdataset', 'pillow', 'opencv-python', 'torchvision')
    text = report(result)
    print(text)
    write_results(args, result, text)


if __name__ == '__main__':
    main()
