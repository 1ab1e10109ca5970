r"""ImageNet-S: link the images of its label maps, and check both against the order of labels.

    python tools/dataset_converters/imagenet_s.py data/imagenet-s/ImageNetS919 \
        --imagenet data/imagenet

Label maps are read as they come: validation-segmentation/<WordNet id>/<image>.png, RGB images with
the label red + 256 * green, 1000 is ignored. --imagenet links their images into validation; without
it the images must be there. Then every image must have a label map of its size, and most label
maps of the n-th folder in sorted order must hold label n. The exit code is 1 if not.
"""

import argparse
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from segment_maps import AnnotationError, add_workers, in_processes, run_conversion

from pgseg_mm.files.image_files import UnreadableImage, open_image, read_header, read_image_file

SUBSETS = {50: 752, 300: 4097, 919: 12419}
"""Number of validation images of each number of classes."""
IGNORED_CLASS = 1000
NAMED_FAULTS = 5
IMAGE_SUFFIXES = ('.jpeg', '.jpg', '.png')
WITHOUT = 'masks without the label of their folder '


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, help='folder of one subset: ImageNetS50, 300 or 919')
    parser.add_argument(
        '--imagenet',
        type=Path,
        metavar='FOLDER',
        help='ImageNet-1k with val (and train, for train-semi), in folders or not',
    )
    parser.add_argument(
        '--split', default='validation', help='or train-semi (default: %(default)s)'
    )
    add_workers(parser)
    return parser


def number_of_classes(root: Path) -> int:
    """Classes of a subset, by the name of its folder.

    Raises:
        AnnotationError: If the name is of none.
    """
    match = re.fullmatch(r'ImageNetS(\d+)', root.resolve().name)
    if match is None or int(match.group(1)) not in SUBSETS:
        names = ', '.join(f'ImageNetS{number}' for number in SUBSETS)
        raise AnnotationError(f'{root} must be called one of {names}, as it is when downloaded')
    return int(match.group(1))


def link_images(root: Path, split: str, imagenet: Path) -> None:
    """Make a link to the image of each label map, where there is none yet.

    Raises:
        AnnotationError: If there is no label map, or an image is not found.
    """
    maps = sorted((root / f'{split}-segmentation').glob('*/*.png'))
    if not maps:
        raise AnnotationError(f'{root} has no label maps, {split}-segmentation/<WordNet id>/*.png')
    folder = imagenet / ('val' if split == 'validation' else 'train')
    sources = {path.stem: path for path in folder.rglob('*.JPEG')}
    missing = [path.stem for path in maps if path.stem not in sources]
    if missing:
        raise AnnotationError(
            f'{folder} lacks {len(missing)} of {len(maps)} images, such as {missing[0]}.JPEG; '
            'give the folder of a complete ImageNet-1k'
        )
    for path in maps:
        link = root / split / path.parent.name / f'{path.stem}.JPEG'
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and not link.exists():
            link.unlink()  # ImageNet was elsewhere then
        if not link.exists():
            link.symlink_to(sources[path.stem].resolve())


def check_image(task: tuple[Path, Path, int, int]) -> Counter[str]:
    """What is wrong with an image and its mask: kind and name of the file."""
    image_path, mask_path, label, num_classes = task
    name = f'{image_path.parent.name}/{image_path.name}'
    if not mask_path.is_file():
        return Counter({f'no mask: {name}': 1})
    try:
        header = read_header(read_image_file(image_path), name, as_turned=True)
        mask = open_image(mask_path)
    except UnreadableImage as error:
        return Counter({f'unreadable: {error}': 1})
    sizes = (header.width, header.height), mask.size
    channels = np.asarray(mask.convert('RGB'), dtype=np.int64)
    labels = np.unique(channels[..., 0] + 256 * channels[..., 1])
    labels = labels[labels != IGNORED_CLASS]
    if sizes[0] != sizes[1]:
        return Counter({f'mask of another size: {name}': 1})
    if labels.size and labels.max() > num_classes:
        return Counter({f'label {labels.max()} above {num_classes}: {name}': 1})
    return Counter() if label in labels else Counter({f'{WITHOUT}{image_path.parent.name}': 1})


def check(root: Path, split: str, workers: int) -> tuple[str, Counter[str]]:
    """Check all images of a split.

    Raises:
        AnnotationError: If folders are missing, or anything is wrong with an image.
    """
    num_classes = number_of_classes(root)
    images, masks = root / split, root / f'{split}-segmentation'
    for folder in (images, masks):
        if not folder.is_dir():
            raise AnnotationError(f'{folder} is missing; unpack the label maps, give --imagenet')
    folders = sorted(folder for folder in images.iterdir() if folder.is_dir())
    if len(folders) != num_classes:
        raise AnnotationError(
            f'{images} has {len(folders)} folders of classes, expected {num_classes}: '
            'labels are the positions of all of them in sorted order'
        )
    tasks = [
        (path, masks / folder.name / f'{path.stem}.png', label, num_classes)
        for label, folder in enumerate(folders, start=1)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    others = sum(len(list(folder.iterdir())) for folder in folders) - len(tasks)
    sizes = Counter(f'{WITHOUT}{path.parent.name}' for path, *_ in tasks)
    found = sum(in_processes(check_image, tasks, workers), Counter())
    faults = Counter({what: n for what, n in found.items() if 2 * n > sizes[what]})
    if faults:
        examples = '\n  '.join(list(faults)[:NAMED_FAULTS])
        raise AnnotationError(
            f'{faults.total()} of {len(tasks)} images of {images} are faulty:\n  {examples}'
        )
    said = f'{images}: {len(tasks)} images of {num_classes} classes, all with their masks'
    if found:
        said += f'; {found.total()} of these lack the label of their folder'
    if split == 'validation' and len(tasks) != SUBSETS[num_classes]:
        said += f'; the published split has {SUBSETS[num_classes]}'
    return said, Counter({'files that are no images': others} if others else {})


def link_and_check(
    root: Path, split: str, imagenet: Path | None, workers: int
) -> tuple[str, Counter[str]]:
    """Link images if need be, and check them."""
    if imagenet is not None:
        number_of_classes(root)
        link_images(root, split, imagenet)
    return check(root, split, workers)


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    run_conversion(partial(link_and_check, args.root, args.split, args.imagenet, args.workers))


if __name__ == '__main__':
    main()
