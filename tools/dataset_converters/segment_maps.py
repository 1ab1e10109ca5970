"""Label maps from segments in COCO's JSON format; what coco_object.py and lvis.py share."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from pgseg_mm import limits
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.messages import described, shown
from pgseg_mm.serialization.loading import write_atomically

IMAGES_AT_A_TIME = 16  # that a process takes
EMPTY_SEGMENT = 'segment without a pixel'
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


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add what all converters of label maps have."""
    parser.add_argument('--workers', type=number_from(1), default=2, metavar='N', help='processes')


def read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Images, annotations and categories of a JSON file in COCO's format.

    Raises:
        AnnotationError: If it is something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (RecursionError, ValueError) as error:  # bad JSON, or bad UTF-8
        raise AnnotationError(f'{shown(path)} is not JSON: {shown(error)}') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise AnnotationError(f'{shown(path)} has no list "{key}"; give a file of instances')
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
        AnnotationError: If there is no image, a category has no label, an entry lacks a field, or
            two images have one name or one leads out of the folder.
    """
    try:
        images = {image['id']: _empty(image, name_of(image)) for image in content['images']}
        if len(images) < len(content['images']):
            raise AnnotationError(
                f'{len(content["images"])} images have {len(images)} ids; each needs one of its own'
            )
        _check_names(images.values())
        for annotation in content['annotations']:
            image = images.get(annotation['image_id'])
            if image is None:
                skipped[NO_IMAGE] += 1
                continue
            category = annotation['category_id']
            if category not in labels:
                raise AnnotationError(
                    f'annotation {shown(annotation.get("id"))} is of category {shown(category)}, '
                    'which the data set does not have'
                )
            image.segments.append((labels[category], annotation['segmentation']))
    except KeyError as error:
        raise AnnotationError(f'an image or annotation has no {shown(error)}') from error
    except (AttributeError, TypeError) as error:
        raise AnnotationError(f'an image or annotation is malformed: {shown(error)}') from error
    if not images:
        raise AnnotationError('the file lists no image')
    return list(images.values())


def check_name(name: str) -> str:
    """The name of an image, if its label map may have it, too.

    Raises:
        AnnotationError: If it is no relative path below the output folder.
    """
    parts = name.split('/')
    if not name.isprintable() or '\\' in name or any(part in ('', '.', '..') for part in parts):
        raise AnnotationError(
            f'an image is called {shown(repr(name))}; expected a plain name, perhaps in a folder'
        )
    return name


def _check_names(images: Iterable[ImageSegments]) -> None:
    """Refuse names of which two label maps would be written to one place, or elsewhere."""
    known: set[str] = set()
    for image in images:
        if check_name(image.name) in known:
            raise AnnotationError(f'two images are called {shown(image.name)}')
        known.add(image.name)


def _empty(image: dict[str, Any], name: str) -> ImageSegments:
    size = (image['height'], image['width'])
    if (
        not all(type(side) is int and side > 0 for side in size)
        or size[0] * size[1] > limits.MAX_PAIR_PIXELS
    ):
        raise AnnotationError(
            f'image {shown(name)} is {described(size[0])} high and {described(size[1])} wide; '
            f'expected pixels, at most {limits.MAX_PAIR_PIXELS} in all'
        )
    return ImageSegments(name, size, [])


def draw_labels(image: ImageSegments, dtype: type[np.generic]) -> tuple[np.ndarray, Counter[str]]:
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
        rle = _run_lengths(segmentation, image, mask_utils, skipped)
        if rle is None:
            continue
        if area := int(mask_utils.area(rle)):
            areas.append((area, label, rle))
        else:
            skipped[EMPTY_SEGMENT] += 1
    label_map = np.zeros(image.size, dtype)
    for _, label, rle in sorted(areas, key=lambda segment: -segment[0]):
        label_map[mask_utils.decode(rle) > 0] = label
    return label_map, skipped


def _run_lengths(
    segmentation: Any, image: ImageSegments, mask_utils: Any, skipped: Counter[str]
) -> Any:
    """COCO's compressed run lengths of a segment; None if its polygons span no area.

    Polygons that span none are counted.
    """
    try:
        if isinstance(segmentation, dict):
            return _checked_run_lengths(segmentation, image, mask_utils)
        # pycocotools would take four numbers for a box
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if flat := len(segmentation) - len(polygons):
            skipped[FLAT] += flat
        if not polygons:
            skipped[EMPTY_SEGMENT] += not segmentation
            return None
        corners = np.concatenate([np.asarray(polygon, float) for polygon in polygons])
        # pycocotools walks along each side pixel by pixel, also far out of the image
        if not (np.abs(corners) <= 4 * max(image.size)).all():
            raise ValueError('a corner lies far out of the image')
        return mask_utils.merge(mask_utils.frPyObjects(polygons, *image.size))
    except AnnotationError:
        raise
    except Exception as error:  # pycocotools fails in many ways
        raise AnnotationError(
            f'a segment of {shown(image.name)} is malformed: {shown(error)}'
        ) from error


def _checked_run_lengths(
    segmentation: dict[str, Any], image: ImageSegments, mask_utils: Any
) -> dict[str, Any]:
    """Run lengths that end where the image does: pycocotools would write on."""
    if tuple(segmentation['size']) != image.size:
        raise AnnotationError(
            f'a segment of {shown(image.name)} is {shown(tuple(segmentation["size"]))} pixels high '
            f'and wide, but the image {image.size}'
        )
    counts = segmentation['counts']
    if isinstance(counts, list):
        runs = counts
    else:
        runs = _unpacked(counts.encode() if isinstance(counts, str) else counts)
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != np.prod(image.size):
        raise ValueError('its run lengths do not add up to the image')
    return mask_utils.frPyObjects({**segmentation, 'counts': list(runs)}, *image.size)


def _unpacked(counts: bytes) -> list[int]:
    """Run lengths of COCO's text: 5 bits a letter, each number after the third a difference."""
    runs: list[int] = []
    at = 0
    while at < len(counts):
        number = shift = 0
        more = True
        while more:
            bits = counts[at] - 48  # an IndexError where it is cut off
            number |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            at, shift = at + 1, shift + 5
        if bits & 0x10:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
    return runs


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
    label_map, skipped = draw_labels(image, dtype)
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
            yield from bar(pool.map(work, tasks, chunksize=IMAGES_AT_A_TIME))


def run_conversion(convert: Callable[[], tuple[str, Counter[str]]]) -> None:
    """Convert, and print what was written and what was left out.

    Leaves with a message and status 1 if an input is faulty.
    """
    try:
        said, skipped = convert()
    except ModuleNotFoundError as error:
        sys.exit(f'error: segments need pycocotools ({error}); install the extra data')
    except (AnnotationError, OSError) as error:
        sys.exit(f'error: {error}')
    print(said)
    for reason, count in skipped.most_common():
        print(f'left out: {count} ({reason})')
