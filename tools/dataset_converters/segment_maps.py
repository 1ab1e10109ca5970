"""Label maps from segments in COCO's JSON format; what coco_object.py and lvis.py share."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from pgseg_mm.utils.loading import write_atomically

CHUNK = 16  # images that a process takes at a time
EMPTY = 'segment without a pixel'
FLAT = 'polygon of fewer than three points'
NO_IMAGE = 'annotation of an image that the file does not list'

Task = TypeVar('Task')


class AnnotationError(ValueError):
    """An input is not what it should be."""


class ImageSegments(NamedTuple):
    """An image and its segments."""

    name: str
    """Path of the image without its suffix, and of the label map below the output folder."""
    size: tuple[int, int]
    """Height and width in pixels."""
    segments: list[tuple[int, Any]]
    """For each segment its label, and its polygons or run lengths as they stand in the JSON."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all converters of label maps have."""
    parser.add_argument('--workers', type=int, default=2, metavar='N', help='processes')


def read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Images, annotations and categories of a JSON file in COCO's format.

    Raises:
        AnnotationError: If it is something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # bad JSON, or bad UTF-8
        raise AnnotationError(f'{path} is not JSON: {error}') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise AnnotationError(f'{path} has no list "{key}"; give a file of instances')
    return content


def group_by_image(
    content: Mapping[str, list[dict[str, Any]]],
    labels: Mapping[int, int],
    name_of: Callable[[dict[str, Any]], str],
    skipped: Counter[str],
) -> list[ImageSegments]:
    """Bring the segments of each image together; an image without any is kept.

    Args:
        content: What :func:`read_annotations` returned.
        labels: Label of each category id.
        name_of: Gives the name of an entry of ``images``.
        skipped: Counts what is left out, for each reason.

    Raises:
        AnnotationError: If there is no image, a category has no label, or an entry lacks a field.
    """
    try:
        images = {
            image['id']: ImageSegments(name_of(image), (image['height'], image['width']), [])
            for image in content['images']
        }
        for annotation in content['annotations']:
            image = images.get(annotation['image_id'])
            if image is None:
                skipped[NO_IMAGE] += 1
                continue
            category = annotation['category_id']
            if category not in labels:
                raise AnnotationError(
                    f'annotation {annotation.get("id")} is of category {category}, '
                    'which the data set does not have'
                )
            image.segments.append((labels[category], annotation['segmentation']))
    except KeyError as error:
        raise AnnotationError(f'an image or annotation has no {error}') from error
    if not images:
        raise AnnotationError('the file lists no image')
    return list(images.values())


def draw(image: ImageSegments, dtype: type[np.generic]) -> tuple[np.ndarray, Counter[str]]:
    """Paint the segments of an image, the largest first, so that small ones stay visible.

    Args:
        image: The segments.
        dtype: Type of the labels.

    Returns:
        Labels (height, width), 0 where no segment is, and what was left out, for each reason.

    Raises:
        AnnotationError: If run lengths are of another size than the image.
    """
    from pycocotools import mask as mask_utils  # COCO-Stuff's maps need none of it

    skipped: Counter[str] = Counter()
    areas = []
    for label, segmentation in image.segments:
        rle = _run_lengths(segmentation, image, mask_utils)
        area = 0 if rle is None else int(mask_utils.area(rle))
        if area:
            areas.append((area, label, rle))
        else:
            skipped[FLAT if rle is None else EMPTY] += 1
    label_map = np.zeros(image.size, dtype)
    for _, label, rle in sorted(areas, key=lambda segment: -segment[0]):
        label_map[mask_utils.decode(rle) > 0] = label
    return label_map, skipped


def _run_lengths(segmentation: Any, image: ImageSegments, mask_utils: Any) -> Any:
    """COCO's compressed run lengths of a segment; None if its polygons span no area."""
    if isinstance(segmentation, dict):
        if tuple(segmentation['size']) != image.size:
            raise AnnotationError(
                f'a segment of {image.name} is {tuple(segmentation["size"])} pixels high and wide, '
                f'but the image {image.size}'
            )
        if isinstance(segmentation['counts'], list):
            return mask_utils.frPyObjects(segmentation, *image.size)
        return segmentation
    # pycocotools would take four numbers for a box
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return None
    return mask_utils.merge(mask_utils.frPyObjects(polygons, *image.size))


def save_map(label_map: np.ndarray, path: Path) -> None:
    """Write labels as a PNG file of 8 or 16 bits, which appears when it is complete."""
    write_atomically(path, lambda temporary: Image.fromarray(label_map).save(temporary))


def write_maps(
    images: Sequence[ImageSegments], folder: Path, suffix: str, workers: int, dtype: type[Any]
) -> Counter[str]:
    """Write the label maps of all images to ``folder/<name><suffix>``.

    Returns:
        What was left out, for each reason.
    """
    work = partial(_write_map, folder=folder, suffix=suffix, dtype=dtype)
    return sum(in_processes(work, images, workers), Counter())


def _write_map(image: ImageSegments, folder: Path, suffix: str, dtype: type[Any]) -> Counter[str]:
    label_map, skipped = draw(image, dtype)
    save_map(label_map, folder / f'{image.name}{suffix}')
    return skipped


def in_processes(
    work: Callable[[Task], Counter[str]], tasks: Sequence[Task], workers: int
) -> Iterator[Counter[str]]:
    """Results of all tasks in their order, under a progress bar.

    Args:
        work: What to do with a task; it must be picklable.
        tasks: One for each image.
        workers: Number of processes; 1 does all the work in this one.
    """
    bar = partial(tqdm, total=len(tasks), unit='image', disable=not sys.stderr.isatty())
    if workers == 1:
        yield from bar(map(work, tasks))
    else:
        with ProcessPoolExecutor(workers) as pool:
            yield from bar(pool.map(work, tasks, chunksize=CHUNK))


def run(convert: Callable[[], tuple[str, Counter[str]]]) -> None:
    """Convert, and print what was written and what was left out.

    Leaves with a message and status 1 if an input is faulty.
    """
    try:
        said, skipped = convert()
    except ModuleNotFoundError as error:
        sys.exit(f'error: segments need pycocotools ({error}); run: pip install "pgseg-mm[data]"')
    except (AnnotationError, OSError) as error:
        sys.exit(f'error: {error}')
    print(said)
    for reason, count in skipped.most_common():
        print(f'left out: {count} ({reason})')


def check_workers(parser: argparse.ArgumentParser, workers: int) -> None:
    """Leave with the parser's usage message unless there is a process to work."""
    if workers < 1:
        parser.error(f'--workers must be at least 1, got {workers}')
