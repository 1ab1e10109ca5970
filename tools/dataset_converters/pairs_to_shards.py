#!/usr/bin/env python3
"""Pack image-text pairs that ImageTextDataset reads into tar shards, as img2dataset writes them.

Image files are packed as they are. Beside each shard a *_stats.json says how many samples it has.
README.md beside this file describes the options.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pgseg_mm.datasets import ImageTextDataset
from pgseg_mm.datasets.shards import IMAGE_MEMBERS, import_webdataset
from pgseg_mm.datasets.skips import (
    MAX_PIXELS,
    MISSING_IMAGE,
    UnusableSample,
    check_size,
    describe_counts,
)


def read_sample(info: dict[str, Any], key: str, max_pixels: int) -> dict[str, Any]:
    """Members of a pair.

    Raises:
        UnusableSample: The image is missing, broken or too large.
        ValueError: It has a suffix that shards do not have.
    """
    path = Path(info['img_path'])
    suffix = path.suffix.lower().lstrip('.')
    if suffix not in IMAGE_MEMBERS:
        raise ValueError(f'{path} ends in .{suffix}; expected one of {list(IMAGE_MEMBERS)}.')
    try:
        image = path.read_bytes()
    except FileNotFoundError as error:
        raise UnusableSample(MISSING_IMAGE, f'{path} does not exist.') from error
    check_size(image, str(path), 0, max_pixels)
    meta = {'caption': info['caption'], 'path': str(path), 'row': info['ann_row']}
    return {'__key__': key, suffix: image, 'txt': info['caption'], 'json': meta}


def write_shard(
    path: Path, infos: Iterator[dict[str, Any]], first: int, max_pixels: int
) -> Counter[str]:
    """Write a shard and its statistics.

    Returns:
        Number of pairs by what became of them, ``successes`` or a reason.
    """
    counts: Counter[str] = Counter()
    # A fixed time makes the same pairs the same file.
    with import_webdataset().TarWriter(str(path), mtime=0) as writer:
        for number, info in enumerate(infos, start=first):
            try:
                writer.write(read_sample(info, f'{number:09d}', max_pixels))
            except UnusableSample as fault:
                counts[fault.reason] += 1
                print(f'left out: {fault}', file=sys.stderr)
            else:
                counts['successes'] += 1
    stats = {'count': counts.total(), 'successes': counts['successes']}
    path.with_name(f'{path.stem}_stats.json').write_text(json.dumps(stats) + '\n')
    return counts


def write_shards(
    dataset: ImageTextDataset, out_dir: Path, order: Sequence[int], shards: int, max_pixels: int
) -> Counter[str]:
    """Write the pairs in an order, evenly over some shards."""
    counts: Counter[str] = Counter()
    parts = np.array_split(np.asarray(order), shards)
    for number, part in enumerate(tqdm(parts, unit='shard', disable=not sys.stderr.isatty())):
        infos = (dataset.get_data_info(int(index)) for index in part)
        first = sum(map(len, parts[:number]))
        counts += write_shard(out_dir / f'{number:05d}.tar', infos, first, max_pixels)
    return counts


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('ann_file', help='annotation file, or a folder with captions beside images')
    parser.add_argument('out_dir', type=Path, help='folder of the shards, made if need be')
    parser.add_argument('--shards', type=int, required=True, help='number of shards')
    parser.add_argument('--image-root', default='', help='folder that the image paths start from')
    parser.add_argument('--image-key', default='image', help='column of the image path')
    parser.add_argument('--caption-key', default='caption', help='column of the caption')
    parser.add_argument('--seed', type=int, default=0, help='seed of the order of the pairs')
    parser.add_argument('--no-shuffle', action='store_true', help='keep the order of the rows')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, help='largest image')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if any(args.out_dir.glob('*.tar')):
        sys.exit(f'error: {args.out_dir} holds shards already; remove them or name another folder.')
    try:
        dataset = ImageTextDataset(
            args.ann_file,
            image_key=args.image_key,
            caption_key=args.caption_key,
            data_prefix=dict(img_path=args.image_root),
        )
        if not 1 <= args.shards <= len(dataset):
            raise ValueError(f'{len(dataset)} pairs do not fill {args.shards} shards.')
        order = np.arange(len(dataset))
        if not args.no_shuffle:
            order = np.random.default_rng(args.seed).permutation(order)
        args.out_dir.mkdir(parents=True, exist_ok=True)
        counts = write_shards(dataset, args.out_dir, order, args.shards, args.max_pixels)
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f'error: {error}')
    successes = counts.pop('successes', 0)
    for reasons in dataset.left_out.values():
        counts.update(reasons)
    print(
        f'{args.out_dir}/{{00000..{args.shards - 1:05d}}}.tar: {successes} pairs; '
        f'left out: {describe_counts(counts)}'
    )
    if not successes:
        sys.exit('error: no pair could be packed.')


if __name__ == '__main__':
    main()
