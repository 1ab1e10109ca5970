"""A sheet of images with their groups, their segmentation and the truth."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmseg.datasets import BaseSegDataset
from PIL import Image, ImageDraw

from .colours import Colours, class_colours
from .legend import LINE, draw_legend, legend_rows, occurring
from .panels import Pixels
from .segmentation_picture import (
    GAP,
    TITLE_HEIGHT,
    ShownImage,
    group_panels,
    groups_of,
    label_panels,
    place_panel,
    to_map,
)
from .text import font

CREDIT_SIZE = 11


@torch.no_grad()
def segment_image(model: Any, dataset: BaseSegDataset, index: int) -> ShownImage:
    """Group and segment an image of a data set.

    The groups are those of the whole image, also where the model predicts by sliding windows.

    Args:
        model: A PGSeg that knows its vocabulary.
        dataset: Data set whose pipeline loads label maps and ends with ``PackSegInputs``.
        index: Index of the image.
    """
    item = dataset[index]
    training = model.training
    model.eval()
    batch = model.data_preprocessor(
        {'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}
    )
    (sample,) = model.predict(batch['inputs'], batch['data_samples'])
    model.add_groups(batch['inputs'], [sample])
    model.train(training)
    image = item['inputs'].flip(0) if model.data_preprocessor.bgr_to_rgb else item['inputs']
    return ShownImage(
        image.permute(1, 2, 0).numpy(),
        {
            'prediction': to_map(sample.pred_sem_seg.data),
            'truth': to_map(sample.gt_sem_seg.data),
        },
        groups_of(sample)[0],
    )


def draw_segmentation_sheet(
    model: Any,
    dataset: BaseSegDataset,
    indices: Iterable[int],
    out_file: str | Path | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    credit: str = '',
    panel: int = 200,
) -> Pixels:
    """Draw one row for each image: input, groups of the first and last stage, prediction, truth.

    Beside them stand the names of the classes that occur, the largest first.

    Args:
        model: A model that knows its vocabulary, which has the labels of the data set.
        dataset: Data set whose pipeline loads label maps and ends with ``PackSegInputs``.
        indices: Indices of the images.
        out_file: PNG file to write; its folder is made if need be.
        palette: Colours of the classes, RGB from 0 to 255; by default distinct ones.
        credit: Line at the foot of the sheet, such as the attribution that the images ask for.
        panel: Width of a picture in pixels.

    Returns:
        (height, width, 3), RGB from 0 to 255.

    Raises:
        ValueError: If there is no image to draw, or the palette is too short.
    """
    shown = [segment_image(model, dataset, index) for index in indices]
    if not shown:
        raise ValueError('the sheet needs at least one image, got no indices')
    names = list(dataset.metainfo['classes'])
    colours = class_colours(names, palette)
    rows = [_panels(each, colours, panel) for each in shown]
    legends = [
        _legend(each, names, colours, row['input'].shape[0])
        for each, row in zip(shown, rows, strict=True)
    ]
    sheet = _paste(rows, legends, credit)
    if out_file is not None:
        Path(out_file).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out_file, format='png')
    return np.asarray(sheet)


def _panels(shown: ShownImage, colours: Colours, width: int) -> dict[str, Pixels]:
    """Panels of a row by their titles."""
    height = max(round(width * shown.image.shape[0] / shown.image.shape[1]), 1)
    maps = label_panels(shown, (height, width), colours, {})
    return {'input': maps.pop('input'), **group_panels(shown, (height, width)), **maps}


def _legend(shown: ShownImage, names: Sequence[str], colours: Colours, height: int) -> Pixels:
    """Legend of a row whose panels have a height."""
    shares = occurring(list(shown.labels.values()), len(names))
    rows = legend_rows(shares, names, colours)
    height = max(height + LINE, 3 * LINE)  # of the heading and two rows at least
    return draw_legend(rows, list(shown.labels), height, free_width=0, min_columns=1)


def _paste(
    rows: Sequence[dict[str, Pixels]], legends: Sequence[Pixels], credit: str
) -> Image.Image:
    """Put rows with their legends below each other, and the credit at the foot."""
    step = rows[0]['input'].shape[1] + GAP
    heights = [
        max(row['input'].shape[0], legend.shape[0] - LINE) + LINE
        for row, legend in zip(rows, legends, strict=True)
    ]
    right = GAP + len(rows[0]) * step
    width = right + max(legend.shape[1] for legend in legends) + GAP
    height = TITLE_HEIGHT + sum(heights) + GAP + (TITLE_HEIGHT if credit else 0)
    sheet = Image.new('RGB', (width, height), 'white')
    top = TITLE_HEIGHT
    for number, (row, legend) in enumerate(zip(rows, legends, strict=True)):
        for column, (title, pixels) in enumerate(row.items()):
            place_panel(sheet, (GAP + column * step, top), pixels, '' if number else title)
        sheet.paste(Image.fromarray(legend), (right, top - LINE))
        top += heights[number]
    foot = (GAP, height - TITLE_HEIGHT // 2)
    ImageDraw.Draw(sheet).text(foot, credit, fill='black', font=font(CREDIT_SIZE), anchor='lm')
    return sheet
