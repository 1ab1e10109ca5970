"""The results of data_loading.py as Markdown."""

import statistics
from typing import Any

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
    machine = result['machine']
    libraries = ''.join(f', {name} {number}' for name, number in result['versions'].items())
    lines += [
        '',
        f'- Machine: {machine["processor"]}, {machine["cores"]} cores',
        f'- Versions: Python {machine["python"]}, torch {machine["torch"]}{libraries}',
        f'- Command: `{result["command"]}`',
        '',
    ]
    return '\n'.join(lines)
