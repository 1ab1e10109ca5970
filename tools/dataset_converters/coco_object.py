r"""COCO-Object: label maps of COCO's 80 things, everything else background.

    python tools/dataset_converters/coco_object.py data/coco_stuff164k
    python tools/dataset_converters/coco_object.py data/coco_stuff164k \
        --instances data/coco/annotations/instances_val2017.json

The first reads COCO-Stuff's maps in annotations/val2017/<id>.png, as the published evaluation does;
the second COCO's own instances. Both write annotations/val2017/<id>_instanceTrainIds.png.
"""

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from segment_maps import (
    AnnotationError,
    add_workers,
    group_by_image,
    in_processes,
    read_annotations,
    run_conversion,
    save_map,
    write_maps,
)

from pgseg_mm.files.image_files import open_image

MAP_SUFFIX = '_instanceTrainIds.png'
UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
THING_IDS = [category for category in range(1, 92) if category not in UNUSED_IDS]
"""COCO's ids of the 80 things; the label of the first is 1."""
STUFF_IDS = range(92, 183)
UNLABELLED = 255
UNKNOWN = 255
"""Marks values that no map of COCO-Stuff has."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, help='folder of COCO-Stuff 164k, as mmseg lays it out')
    parser.add_argument(
        '--instances',
        type=Path,
        metavar='JSON',
        help="COCO's instances of the split, in place of COCO-Stuff's maps",
    )
    parser.add_argument('--split', default='val2017', help='or train2017 (default: %(default)s)')
    add_workers(parser)
    return parser


def label_of_stuff_value() -> np.ndarray:
    """Label of each pixel value of COCO-Stuff's maps, which is a category's id less one.

    Stuff and what is not labelled become background, 0.
    """
    labels = np.full(256, UNKNOWN, np.uint8)
    labels[UNLABELLED] = 0
    labels[np.array(STUFF_IDS) - 1] = 0
    labels[np.array(THING_IDS) - 1] = np.arange(1, len(THING_IDS) + 1)
    return labels


def convert_map(path: Path, folder: Path) -> Counter[str]:
    """Write the label map of one of COCO-Stuff's maps.

    Raises:
        AnnotationError: If it is none.
        UnreadableImage: If it is damaged.
    """
    values = np.asarray(open_image(path))
    if values.ndim != 2 or values.dtype != np.uint8:
        raise AnnotationError(f'{path} is not a map of one channel with 8 bits')
    label_map = label_of_stuff_value()[values]
    if (label_map == UNKNOWN).any():
        foreign = np.unique(values[label_map == UNKNOWN]).tolist()
        raise AnnotationError(
            f'{path} is no map of COCO-Stuff: it has the values {foreign}; give the maps of '
            'stuffthingmaps_trainval2017.zip, as they are'
        )
    save_map(label_map, folder / f'{path.stem}{MAP_SUFFIX}')
    return Counter()


def convert_stuff_maps(folder: Path, workers: int) -> tuple[str, Counter[str]]:
    """Convert all maps of a folder.

    Raises:
        AnnotationError: If there are none, or one of them is something else.
    """
    paths = sorted(path for path in folder.glob('*.png') if 'TrainIds' not in path.name)
    if not paths:
        raise AnnotationError(
            f'{folder} holds no maps of COCO-Stuff, <id>.png; unpack '
            'stuffthingmaps_trainval2017.zip there, or give --instances'
        )
    skipped = sum(in_processes(partial(convert_map, folder=folder), paths, workers), Counter())
    return f'{folder}: {len(paths)} label maps', skipped


def convert_instances(path: Path, folder: Path, workers: int) -> tuple[str, Counter[str]]:
    """Draw COCO's instances, crowds included.

    Raises:
        AnnotationError: If the file holds something else.
    """
    labels = {category: label for label, category in enumerate(THING_IDS, start=1)}
    skipped: Counter[str] = Counter()
    images = group_by_image(
        read_annotations(path), labels, lambda image: Path(image['file_name']).stem, skipped
    )
    skipped += write_maps(images, folder, MAP_SUFFIX, workers, np.uint8)
    return f'{folder}: {len(images)} label maps', skipped


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    folder = args.root / 'annotations' / args.split
    if args.instances is None:
        run_conversion(partial(convert_stuff_maps, folder, args.workers))
    else:
        run_conversion(partial(convert_instances, args.instances, folder, args.workers))


if __name__ == '__main__':
    main()
