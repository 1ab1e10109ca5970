"""Look at a data set as the model gets it: after augmentation, with captions or label maps."""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from textwrap import wrap
from typing import Any

import mmcv
import numpy as np
from mmengine.utils import track_iter_progress
from mmseg.registry import DATASETS, VISUALIZERS
from mmseg.utils import register_all_modules
from PIL import Image, ImageDraw, ImageFont

from pgseg_mm.cli.arguments import add_settings
from pgseg_mm.cli.folders import check_writable
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.cli.processes import data_errors
from pgseg_mm.cli.run_configs import find_config, read_with_settings
from pgseg_mm.datasets.transforms.checked_loading import check_loading
from pgseg_mm.errors import PreflightError
from pgseg_mm.messages import first_line

MIN_WIDTH = 448
"""Narrower images are enlarged by a whole factor, so that a caption fits beside them."""
FONT_SIZE, MARGIN = 16, 8
VISUALIZER = {'type': 'PGSegVisualizer'}
"""What draws where the config has nothing for it."""


def with_caption(image: np.ndarray, caption: str) -> np.ndarray:
    """An RGB image (H, W, 3) with its caption below."""
    factor = -(-MIN_WIDTH // image.shape[1])
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    font = ImageFont.load_default(FONT_SIZE)
    columns = int((image.shape[1] - 2 * MARGIN) / font.getlength('x'))
    lines = wrap(caption, columns) or ['']
    line_height = FONT_SIZE * 5 // 4
    height = image.shape[0] + len(lines) * line_height + 2 * MARGIN
    sheet = Image.new('RGB', (image.shape[1], height), 'white')
    sheet.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        top = image.shape[0] + MARGIN + number * line_height
        draw.text((MARGIN, top), line, 'black', font)
    return np.asarray(sheet)


def items(dataset: Any) -> Iterator[dict]:
    """Items of a data set in its order, of a stream in that of its first epoch."""
    if getattr(dataset, 'is_stream', False):
        return iter(dataset)
    return (dataset[index] for index in range(len(dataset)))


def show_item(
    number: int, item: dict, visualizer: Any, out_dir: Path | None, show: bool, wait: float
) -> None:
    """Draw one item, on the screen, into a folder or both."""
    image = np.ascontiguousarray(item['inputs'].permute(1, 2, 0).numpy()[..., ::-1])  # BGR to RGB
    sample = item['data_samples']
    name = f'{number:06d}_{Path(sample.metainfo.get("img_path", "image")).stem}.png'
    out_file = None if out_dir is None else str(out_dir / name)
    if 'gt_sem_seg' in sample:
        visualizer.add_datasample(
            name,
            image,
            sample.numpy(),
            draw_pred=False,
            show=show,
            wait_time=wait,
            out_file=out_file,
        )
        return
    sheet = with_caption(image, sample.metainfo.get('caption', ''))
    if out_file is not None:
        mmcv.imwrite(sheet[..., ::-1], out_file)
    if show:
        visualizer.show(sheet, win_name=name, wait_time=wait)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    parser.add_argument('--number', type=number_from(1), help='items to show; all by default')
    parser.add_argument('--output-dir', type=Path, help='folder to write pictures to')
    parser.add_argument('--not-show', action='store_true', help='open no window')
    parser.add_argument(
        '--show-interval',
        type=number_from(0, kind=float),
        default=2,
        help='seconds that a picture stays (2)',
    )
    add_settings(parser)
    args = parser.parse_args()
    args.config = find_config(parser, args.config)
    if args.not_show and args.output_dir is None:
        parser.error('--not-show without --output-dir leaves nothing to do')
    cfg = read_with_settings(parser, args)
    if args.output_dir is not None:
        try:
            check_writable(args.output_dir, '--output-dir')
        except PreflightError as error:
            parser.error(str(error))
    if cfg.get(f'{args.split}_dataloader') is None:
        parser.error(f'the config has no {args.split}_dataloader')
    register_all_modules()
    try:
        dataset = DATASETS.build(cfg[f'{args.split}_dataloader'].dataset)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        sys.exit(f'error: the data set cannot be built: {first_line(error)}')
    visualizer = VISUALIZERS.build(
        dict(cfg.get('visualizer') or VISUALIZER, vis_backends=None, name='browse')
    )
    visualizer.dataset_meta = dataset.metainfo
    total = len(dataset) if args.number is None else min(args.number, len(dataset))
    check_loading(dataset)
    shown = track_iter_progress((islice(items(dataset), total), total), file=sys.stderr)
    with data_errors():
        for number, item in enumerate(shown):
            show_item(
                number, item, visualizer, args.output_dir, not args.not_show, args.show_interval
            )


if __name__ == '__main__':
    main()
