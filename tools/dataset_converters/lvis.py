r"""LVIS v1 as semantic segmentation: label maps of 16 bits with category ids.

    python tools/dataset_converters/lvis.py data/lvis/lvis_v1_val.json data/lvis \
        --images data/coco_stuff164k/images

Writes annotations/val/<train2017 or val2017>/<id>.png. Segments of one category become one region;
where segments overlap, the smaller one is on top. A pixel that no segment covers is background, 0.
"""

import argparse
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from segment_maps import (
    AnnotationError,
    add_workers,
    group_by_image,
    read_annotations,
    run_conversion,
    write_maps,
)

from pgseg_mm.messages import shown

NUM_CATEGORIES = 1203
COCO_FOLDERS = ('train2017', 'val2017', 'test2017')
MISSING = 'image whose file was not found'


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotations', type=Path, help='lvis_v1_val.json or lvis_v1_train.json')
    parser.add_argument('out_dir', type=Path, help='folder to write to')
    parser.add_argument(
        '--images',
        type=Path,
        metavar='FOLDER',
        help="COCO's images, train2017 and val2017; those that are not there get no label map",
    )
    add_workers(parser)
    return parser


def image_name(image: dict[str, Any]) -> str:
    """``val2017/000000397133`` of an image: LVIS names its files by their address alone.

    Raises:
        AnnotationError: If the address is none of COCO's.
    """
    folder, _, file = image['coco_url'].rpartition('/')
    folder = folder.rpartition('/')[2]
    if folder not in COCO_FOLDERS:
        raise AnnotationError(
            f'an image has the coco_url {shown(repr(image["coco_url"]))}; expected one that ends '
            f'in FOLDER/NAME.jpg, with {" or ".join(COCO_FOLDERS)} as the folder'
        )
    return f'{folder}/{file.rpartition(".")[0]}'


def check_categories(path: Path, categories: list[dict[str, Any]]) -> None:
    """Check that the ids are those of LVIS v1.

    Raises:
        AnnotationError: If they are not; those of version 0.5 name other things.
    """
    try:
        foreign = sorted(c['id'] for c in categories if not 1 <= c['id'] <= NUM_CATEGORIES)
    except (KeyError, TypeError) as error:
        raise AnnotationError(f'a category of {path} has no number as its id') from error
    if foreign:
        raise AnnotationError(
            f'{path} has category {foreign[0]}, but LVIS v1 those from 1 to {NUM_CATEGORIES}; '
            'give a file of version 1'
        )


def write_label_maps(
    path: Path, out_dir: Path, image_folder: Path | None, workers: int
) -> tuple[str, Counter[str]]:
    """Write the label maps.

    Raises:
        AnnotationError: If the file is none of LVIS v1, or no image of it is there.
    """
    skipped: Counter[str] = Counter()
    content = read_annotations(path)
    check_categories(path, content['categories'])
    labels = {category['id']: category['id'] for category in content['categories']}
    images = group_by_image(content, labels, image_name, skipped)
    if image_folder is not None:
        found = [image for image in images if (image_folder / f'{image.name}.jpg').is_file()]
        if not found:
            raise AnnotationError(
                f'{image_folder} has none of the {len(images)} images, such as '
                f'{images[0].name}.jpg; unpack val2017.zip and train2017.zip of COCO there'
            )
        skipped[MISSING] += len(images) - len(found)
        images = found
    folder = out_dir / 'annotations' / path.stem.rpartition('_')[2]
    skipped += write_maps(images, folder, '.png', workers, np.uint16)
    return f'{folder}: {len(images)} label maps', +skipped


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    run_conversion(
        partial(write_label_maps, args.annotations, args.out_dir, args.images, args.workers)
    )


if __name__ == '__main__':
    main()
