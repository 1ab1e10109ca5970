#!/usr/bin/env python3
"""Pack image-text pairs that ImageTextDataset reads into tar shards, as img2dataset writes them.

Image files are packed as they are. Beside each shard a *_stats.json says how many samples it has.
README.md beside this file describes the options.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from tqdm import tqdm

from pgseg_mm import limits
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.datasets import DecodeImage, ImageTextDataset
from pgseg_mm.datasets.pairs.shards import IMAGE_MEMBERS, import_webdataset
from pgseg_mm.datasets.pairs.skips import (
    UnusableSample,
    check_size,
    describe_counts,
    run_pipeline,
)
from pgseg_mm.messages import shown
from pgseg_mm.serialization.atomic_files import clear_leftovers, write_atomically

DECODING = Compose([DecodeImage()])
MEMBER_OF_FORMAT = {'JPEG': 'jpg', 'MPO': 'jpg', 'TIFF': 'tif'}
"""Suffixes of members that are not the name of their format."""
UNFINISHED = '.unfinished.json'
"""Notes in the folder what is being written."""


def read_sample(
    info: dict[str, Any], key: str, dataset: ImageTextDataset, args: argparse.Namespace
) -> dict[str, Any]:
    """Members of a pair, whose image is decoded unless headers are enough.

    Raises:
        FileAccessError: The system cannot read the image.
        UnusableSample: The image is missing, broken or too large, or no member of shards.
    """
    image, suffix = dataset.read_image_bytes(info)
    name = shown(info['img_path'])
    header = check_size(image, name, 0, args.max_pixels)
    if not args.headers_only:
        run_pipeline(DECODING, {'img_bytes': image}, name, 0, args.max_pixels)
    if suffix not in IMAGE_MEMBERS:  # a name says little
        suffix = MEMBER_OF_FORMAT.get(header.format, header.format.lower())
    path = os.fsencode(info['img_path']).decode('utf-8', 'replace')
    meta = {'caption': info['caption'], 'path': path, 'row': info['ann_row']}
    return {'__key__': key, suffix: image, 'txt': info['caption'], 'json': meta}


def write_shard(
    path: Path,
    dataset: ImageTextDataset,
    part: Sequence[int],
    first: int,
    args: argparse.Namespace,
) -> Counter[str]:
    """Write a shard and then its statistics; either appears when it is complete.

    Returns:
        Number of pairs by what became of them, ``successes`` or a reason.
    """
    counts: Counter[str] = Counter()

    def write(temporary: Path) -> None:
        # A fixed time makes the same pairs the same file.
        with import_webdataset().TarWriter(str(temporary), mtime=0) as writer:
            for number, index in enumerate(part, start=first):
                info = dataset.get_data_info(int(index))
                try:
                    writer.write(read_sample(info, f'{number:09d}', dataset, args))
                except UnusableSample as fault:
                    counts[fault.reason] += 1
                    print(f'left out: {fault}', file=sys.stderr)
                else:
                    counts['successes'] += 1

    write_atomically(path, write)
    stats = {'count': counts.total(), 'successes': counts['successes']}
    text = json.dumps(stats) + '\n'
    write_atomically(stats_of(path), lambda temporary: temporary.write_text(text))
    return counts


def stats_of(shard: Path) -> Path:
    """File of the statistics of a shard."""
    return shard.with_name(f'{shard.stem}_stats.json')


class Progress:
    """A note in the folder of what is being written, so that the same command can go on with it.

    Args:
        args: What the command was given.
        dataset: The pairs.

    Raises:
        ValueError: The folder holds shards of something else.
    """

    def __init__(self, args: argparse.Namespace, dataset: ImageTextDataset) -> None:
        self._folder = args.out_dir
        self._note = args.out_dir / UNFINISHED
        self._plan = {name: str(value) for name, value in vars(args).items()}
        self._plan |= {'pairs': len(dataset), 'sha256': dataset.sha256_of_pairs()}
        self._done: dict[str, dict[str, int]] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        note = json.loads(self._note.read_text()) if self._note.is_file() else {}
        if note.get('plan') == self._plan:
            self._done = note['done']
            clear_leftovers(self._folder)
        elif any(self._folder.glob('*.tar')):
            raise ValueError(
                f'{shown(self._folder)} holds shards already; remove them or name another folder.'
            )
        self._write()

    def counts(self, shard: Path) -> Counter[str] | None:
        """What became of the pairs of a shard that is complete and there, or None."""
        there = shard.is_file() and stats_of(shard).is_file()
        return Counter(self._done[shard.name]) if there and shard.name in self._done else None

    def add(self, shard: Path, counts: Counter[str]) -> None:
        """Note a shard that is complete."""
        self._done[shard.name] = dict(counts)
        self._write()

    def end(self) -> None:
        """Take the note away."""
        self._note.unlink()

    def clear(self) -> None:
        """Take the shards away, of which none has a pair."""
        for shard in self._done:
            path = self._folder / shard
            path.unlink()
            stats_of(path).unlink()

    def _write(self) -> None:
        text = json.dumps({'plan': self._plan, 'done': self._done})
        write_atomically(self._note, lambda temporary: temporary.write_text(text))


def write_shards(
    dataset: ImageTextDataset, args: argparse.Namespace, progress: Progress
) -> Counter[str]:
    """Write the pairs in their order, evenly over the shards; those that are there are kept."""
    order = np.arange(len(dataset))
    if not args.no_shuffle:
        order = np.random.default_rng(args.seed).permutation(order)
    total: Counter[str] = Counter()
    parts = np.array_split(order, args.shards)
    for number, part in enumerate(tqdm(parts, unit='shard', disable=not sys.stderr.isatty())):
        shard = args.out_dir / f'{number:05d}.tar'
        counts = progress.counts(shard)
        if counts is None:
            first = sum(map(len, parts[:number]))
            counts = write_shard(shard, dataset, part, first, args)
            progress.add(shard, counts)
        total += counts
    return total


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('ann_file', help='annotation file, or a folder with captions beside images')
    parser.add_argument('out_dir', type=Path, help='folder of the shards, made if need be')
    parser.add_argument('--shards', type=number_from(1), required=True, help='number of shards')
    parser.add_argument('--image-root', default='', help='folder that the image paths start from')
    parser.add_argument('--image-key', default='image', help='column of the image path')
    parser.add_argument('--caption-key', default='caption', help='column of the caption')
    parser.add_argument(
        '--seed', type=number_from(0), default=0, help='seed of the order of the pairs'
    )
    parser.add_argument('--no-shuffle', action='store_true', help='keep the order of the rows')
    parser.add_argument(
        '--allow-outside',
        action='store_true',
        help='pack images that absolute paths, .. or links place out of --image-root',
    )
    parser.add_argument(
        '--max-pixels', type=number_from(1), default=limits.MAX_PAIR_PIXELS, help='largest image'
    )
    parser.add_argument(
        '--headers-only',
        action='store_true',
        help='decode no image: faster, but images that break off are packed',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    progress = None
    try:
        dataset = ImageTextDataset(
            args.ann_file,
            image_key=args.image_key,
            caption_key=args.caption_key,
            data_prefix=dict(img_path=args.image_root),
            allow_outside=args.allow_outside,
        )
        if not 1 <= args.shards <= len(dataset):
            raise ValueError(f'{len(dataset)} pairs do not fill {args.shards} shards.')
        progress = Progress(args, dataset)
        counts = write_shards(dataset, args, progress)
        progress.end()
    except (OSError, ImportError, ValueError) as error:
        again = '' if progress is None else ' The same command goes on with what is done.'
        sys.exit(f'error: {shown(error) if isinstance(error, OSError) else error}{again}')
    successes = counts.pop('successes', 0)
    for reasons in dataset.left_out.values():
        counts.update(reasons)
    print(
        f'{args.out_dir}/{{00000..{args.shards - 1:05d}}}.tar: {successes} pairs; '
        f'left out: {describe_counts(counts)}'
    )
    if not successes:
        progress.clear()
        sys.exit('error: no pair could be packed.')


if __name__ == '__main__':
    main()
