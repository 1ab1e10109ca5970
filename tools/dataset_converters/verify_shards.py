#!/usr/bin/env python3
"""Read tar shards of image-text pairs as training does, and say what is in them and what is broken.

Every member is read and every image decoded. The exit code is 1 if a larger share of the samples
than --limit cannot be used. README.md beside this file describes the options.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from tqdm import tqdm

from pgseg_mm import limits
from pgseg_mm.cli.folders import check_writable_file
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.datasets import DecodeImage
from pgseg_mm.datasets.pairs.shards import RawSample, expand_shards, read_shard
from pgseg_mm.datasets.pairs.skips import (
    BROKEN_SHARD,
    UnusableSample,
    check_pixel_limits,
    run_pipeline,
)
from pgseg_mm.files.reading import FileAccessError

EXAMPLES_PER_REASON = 3


@dataclass
class Findings:
    """What was found in one shard or in several."""

    shards: int = 0
    samples: int = 0
    usable: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    words: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    image_bytes: list[int] = field(default_factory=list)

    def add_fault(self, fault: UnusableSample) -> None:
        self.faults[fault.reason] += 1
        examples = self.examples.setdefault(fault.reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(fault.message)

    def add(self, other: Findings) -> None:
        self.shards += other.shards
        self.samples += other.samples
        self.usable += other.usable
        self.faults.update(other.faults)
        for reason, examples in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine.extend(examples[: EXAMPLES_PER_REASON - len(mine)])
        for name in ('words', 'characters', 'widths', 'heights', 'image_bytes'):
            getattr(self, name).extend(getattr(other, name))

    @property
    def share(self) -> float:
        """Share of the samples that cannot be used; a shard that breaks off counts as one."""
        broken = self.samples - self.usable + self.faults[BROKEN_SHARD]
        return broken / max(self.samples + self.faults[BROKEN_SHARD], 1)

    def summary(self) -> dict[str, Any]:
        return {
            'shards': self.shards,
            'samples': self.samples,
            'usable': self.usable,
            'broken': dict(self.faults.most_common()),
            'broken_share': self.share,
            'examples': self.examples,
            'caption_words': distribution(self.words),
            'caption_characters': distribution(self.characters),
            'image_width': distribution(self.widths),
            'image_height': distribution(self.heights),
            'image_bytes': distribution(self.image_bytes),
        }


def distribution(values: list[int]) -> dict[str, float]:
    """Smallest, quantiles, mean and largest of some numbers."""
    if not values:
        return {}
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {
        'min': min(values),
        '5%': low,
        'median': median,
        'mean': float(np.mean(values)),
        '95%': high,
        'max': max(values),
    }


def check_shard(shard: str, caption_key: str, min_pixels: int, max_pixels: int) -> Findings:
    """Read all samples of a shard and decode their images."""
    findings = Findings(shards=1)
    pipeline = Compose([DecodeImage()])
    try:
        for sample in read_shard(shard):
            findings.samples += 1
            try:
                check_sample(sample, pipeline, findings, caption_key, min_pixels, max_pixels)
            except UnusableSample as fault:
                findings.add_fault(fault)
    except UnusableSample as fault:
        findings.add_fault(fault)
    except FileAccessError as error:  # the other shards are read even so
        findings.add_fault(UnusableSample(BROKEN_SHARD, str(error)))
    return findings


def check_sample(
    sample: RawSample,
    pipeline: Compose,
    findings: Findings,
    caption_key: str,
    min_pixels: int,
    max_pixels: int,
) -> None:
    image, caption = sample.pair(caption_key)
    results = run_pipeline(pipeline, {'img_bytes': image}, sample.name, min_pixels, max_pixels)
    height, width = results['img_shape']
    findings.usable += 1
    findings.words.append(len(caption.split()))
    findings.characters.append(len(caption))
    findings.widths.append(width)
    findings.heights.append(height)
    findings.image_bytes.append(len(image))


def check_all(shards: list[str], args: argparse.Namespace) -> Findings:
    check = partial(
        check_shard,
        caption_key=args.caption_key,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
    )
    findings = Findings()
    with ProcessPoolExecutor(args.jobs) if args.jobs > 1 else nullcontext() as pool:
        parts: Iterable[Findings] = pool.map(check, shards) if pool else map(check, shards)
        for part in tqdm(parts, total=len(shards), unit='shard', disable=not sys.stderr.isatty()):
            findings.add(part)
    return findings


def print_summary(summary: dict[str, Any]) -> None:
    print(
        f'{summary["shards"]} shards, {summary["samples"]} samples, {summary["usable"]} usable, '
        f'{100 * summary["broken_share"]:.2f} % broken'
    )
    for reason, number in summary['broken'].items():
        print(f'  {number:8} {reason}, such as:')
        for example in summary['examples'][reason]:
            print(f'           {example}')
    for name in ('caption_words', 'caption_characters', 'image_width', 'image_height'):
        print_numbers(name, summary[name])
    print_numbers('image_bytes', summary['image_bytes'])


def print_numbers(name: str, numbers: dict[str, float]) -> None:
    print(f'{name:18}', ', '.join(f'{key} {value:.4g}' for key, value in numbers.items()))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'patterns', nargs='+', help="'DIR/{00000..00331}.tar', 'DIR/*.tar' or 'pipe:COMMAND'"
    )
    parser.add_argument('--caption-key', default='caption', help='key in json members')
    parser.add_argument(
        '--min-pixels', type=number_from(0), default=0, help='smallest width times height'
    )
    parser.add_argument(
        '--max-pixels', type=number_from(1), default=limits.MAX_PAIR_PIXELS, help='largest one'
    )
    parser.add_argument(
        '--limit',
        type=number_from(0, 1, float),
        default=0.1,
        help='share of broken samples that is accepted',
    )
    parser.add_argument('--jobs', type=number_from(1), default=1, help='shards read at a time')
    parser.add_argument('--json', type=Path, help='file for the findings')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        if args.json:
            check_writable_file(args.json, '--json')
        check_pixel_limits(args.min_pixels, args.max_pixels)
        shards = expand_shards(args.patterns)
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f'error: {error}')
    findings = check_all(shards, args)
    summary = findings.summary()
    print_summary(summary)
    if args.json:
        args.json.write_text(json.dumps(summary, indent=2) + '\n', encoding='utf-8')
    if findings.samples == 0:
        sys.exit('error: the shards hold no sample.')
    if findings.share > args.limit:
        sys.exit(
            f'error: {100 * findings.share:.2f} % of the {findings.samples} samples cannot be '
            f'used; --limit accepts {100 * args.limit:g} %.'
        )


if __name__ == '__main__':
    main()
