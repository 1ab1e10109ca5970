"""The results of inference.py as Markdown."""

from typing import Any

from pgseg_mm.cli.provenance import describe

from .groupvit_peer import PEER
from .inference_contestants import ENCODER
from .timing import show_ratio

INFERENCE_EXPLAINED = f"""\
Times are medians. Ratios are medians of the ratios within a round, with their middle half in
brackets; below 1 is faster. "{ENCODER}" is the floor: the image encoder alone on
each window of the image. "predict" is everything from the normalised image to the class of each
pixel, with classes embedded beforehand; ours encodes the windows in batches.
"{PEER}" takes the same windows one at a time and adds up dense scores of
classes x height x width.
"""


def report(result: dict[str, Any]) -> str:
    """Document with both tables and how they were made."""
    settings = result['settings']
    weights = settings['checkpoint'] or (
        'random, with assignments sharpened so that every group wins pixels'
    )
    compiled = ' Encoder and head went through torch.compile.' if settings['compiled'] else ''
    lines = [
        '# Speed and memory of inference',
        '',
        f'One image of {_size(settings["size"])} (height x width), {settings["num_classes"]} '
        f'classes, {settings["repeat"]} rounds. Device: {settings["device"]}, threads: '
        f'{settings["threads"]}. Weights: {weights}.{compiled}',
        '',
        *_times(result['times'], settings['size']),
        '',
        INFERENCE_EXPLAINED,
    ]
    if result['memory']:
        lines += [*_memory(result['memory'], settings['device']), '']
    return '\n'.join([*lines, *describe(result), ''])


def _times(rows: list[dict[str, Any]], size: list[int]) -> list[str]:
    lines = [
        '| Model | Task | Output | ms | images/s | x encoder | x transformers |',
        '| --- | --- | --- | --: | --: | --: | --: |',
    ]
    for row in rows:
        output = '' if row['task'] != 'predict' else _size(row['output_size'] or size)
        lines.append(
            f'| {row["model"]} | {row["task"]} | {output} | {row["milliseconds"]:.1f} '
            f'| {row["images_per_second"]:.2f} | {show_ratio(row["times_encoder"])} '
            f'| {show_ratio(row["times_peer"])} |'
        )
    return lines


def _memory(rows: list[dict[str, Any]], device: str) -> list[str]:
    whole = 'Peak of the process' if device == 'cpu' else 'Peak allocated'
    lines = [
        f'| Model | Image and output | {whole}, MiB | before, with the model, MiB |',
        '| --- | --- | --: | --: |',
    ]
    lines += [
        f'| {row["model"]} | {_size(row["size"])} | {row["peak_mib"]:.0f} '
        f'| {row["before_mib"]:.0f} |'
        for row in rows
    ]
    return lines


def _size(size: list[int]) -> str:
    return f'{size[0]} x {size[1]}'
