r"""DAVIS 2016: label maps of its main objects by their words.

    python tools/dataset_converters/davis.py DAVIS data/davis2016 --every 8

The folder holds JPEGImages/480p/<sequence>/<frame>.jpg and the masks of the main object in
Annotations/480p/<sequence>/<frame>.png, or the same without 480p. Written are
images/<sequence>/<frame>.jpg, copied, and annotations/<sequence>/<frame>.png for the 20 sequences
of the validation set, whose objects have words here: 0 outside of the mask, and the label of the
object's word within. Some masks hold several things (a rider and a horse) and do not say which
pixel is which: these pixels are 255, which is ignored.
"""

import argparse
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from segment_maps import (
    AnnotationError,
    add_workers,
    in_processes,
    run_conversion,
    save_map,
)

from pgseg_mm.cli.numbers import number_from
from pgseg_mm.datasets import DAVISMainObjectDataset
from pgseg_mm.files.image_files import open_image, read_header, read_image_file
from pgseg_mm.serialization.loading import write_atomically

WORDS = {
    'blackswan': ('swan',),
    'bmx-trees': ('person', 'bicycle'),
    'breakdance': ('person',),
    'camel': ('camel',),
    'car-roundabout': ('car',),
    'car-shadow': ('car',),
    'cows': ('cow',),
    'dance-twirl': ('person',),
    'dog': ('dog',),
    'drift-chicane': ('car',),
    'drift-straight': ('car',),
    'goat': ('goat',),
    'horsejump-high': ('horse', 'person'),
    'kite-surf': ('person', 'kite', 'surfboard'),
    'libby': ('dog',),
    'motocross-jump': ('person', 'motorcycle'),
    'paragliding-launch': ('person', 'paraglider'),
    'parkour': ('person',),
    'scooter-black': ('person', 'scooter'),
    'soapbox': ('person', 'cart'),
}
"""What the mask of each sequence holds."""
IGNORED = 255
RESOLUTION = '480p'
OTHER_SEQUENCE = 'sequence that has no words here'
NO_MASK = 'frame without a mask'
NO_FRAME = 'sequence without a frame NAME.jpg'


class Frame(NamedTuple):
    """A frame to convert."""

    name: str
    """Sequence and number, such as ``dog/00000``."""
    image: Path
    mask: Path
    label: int
    """Of the pixels within the mask."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, help='folder of JPEGImages and Annotations')
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        '--every',
        type=number_from(1),
        default=1,
        metavar='N',
        help='take the first of every N frames of a sequence (default: all)',
    )
    add_workers(parser)
    return parser


def label_of(sequence: str) -> int:
    """Label of the pixels within the mask of a sequence: of its word, if there is one alone."""
    words = WORDS[sequence]
    if len(words) > 1:
        return IGNORED
    return DAVISMainObjectDataset.METAINFO['classes'].index(words[0])


def folder_of(root: Path, name: str) -> Path:
    """Folder of the sequences' images or masks.

    Raises:
        AnnotationError: If there is none.
    """
    folders = (root / name / RESOLUTION, root / name)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise AnnotationError(
            f'{folders[0]} and {folders[1]} do not exist; give the folder of DAVIS 2016 that '
            'holds JPEGImages and Annotations'
        )
    return folder


def list_frames(root: Path, every: int, left_out: Counter[str]) -> list[Frame]:
    """Frames of the sequences that have words, every so many of each.

    Raises:
        AnnotationError: If folders are missing, or there is no frame with a mask.
    """
    images, masks = (folder_of(root, name) for name in ('JPEGImages', 'Annotations'))
    frames = []
    found = {folder.name for folder in images.iterdir() if folder.is_dir()}
    left_out[OTHER_SEQUENCE] += len(found - WORDS.keys())
    for missing in sorted(WORDS.keys() - found):
        left_out[f'sequence that is missing: {missing}'] += 1
    for sequence in sorted(found & WORDS.keys()):
        label = label_of(sequence)
        listed = sorted((images / sequence).glob('*.jpg'))[::every]
        if not listed:
            left_out[f'{NO_FRAME}: {sequence}'] += 1
        for image in listed:
            mask = masks / sequence / f'{image.stem}.png'
            if mask.is_file():
                frames.append(Frame(f'{sequence}/{image.stem}', image, mask, label))
            else:
                left_out[NO_MASK] += 1
    if not frames:
        raise AnnotationError(f'{images} has no frame of DAVIS 2016 with a mask in {masks}')
    return frames


def check_others(frames: list[Frame], out: Path) -> None:
    """Refuse a folder with frames that are not written now: they would be evaluated, too.

    Raises:
        AnnotationError: If there are any.
    """
    written = {frame.name for frame in frames}
    for folder, suffix in ((out / 'images', '.jpg'), (out / 'annotations', '.png')):
        found = sorted(folder.glob(f'*/[!.]*{suffix}'))  # none that a killed run has left
        others = [file for file in found if f'{file.parent.name}/{file.stem}' not in written]
        if others:
            raise AnnotationError(
                f'{folder} has {len(others)} frames that would not be written now, such as '
                f'{others[0].parent.name}/{others[0].name}; remove the folder, or name another one'
            )


def convert_frame(frame: Frame, out: Path) -> Counter[str]:
    """Write the label map of a frame, and copy its image.

    Raises:
        AnnotationError: If the mask is none, or of another size than the image.
        UnreadableImage: If the image or the mask is damaged.
    """
    values = np.asarray(open_image(frame.mask).convert('L'))
    if not set(np.unique(values).tolist()) <= {0, 255}:
        raise AnnotationError(f'{frame.mask} is no mask of DAVIS 2016, which is black and white')
    content = read_image_file(frame.image)
    header = read_header(content, str(frame.image), as_turned=True)
    if values.shape != (header.height, header.width):
        raise AnnotationError(
            f'{frame.mask} is of {values.shape} pixels (height, width), but its image of '
            f'{(header.height, header.width)}'
        )
    labels = np.where(values == 255, frame.label, 0).astype(np.uint8)
    save_map(labels, out / 'annotations' / f'{frame.name}.png')
    image = out / 'images' / f'{frame.name}.jpg'
    write_atomically(image, lambda path: path.write_bytes(content))
    return Counter()


def convert(root: Path, out: Path, every: int, workers: int) -> tuple[str, Counter[str]]:
    """Convert the frames.

    Returns:
        What was written, and what was left out, for each reason.

    Raises:
        AnnotationError: If an input is faulty.
    """
    left_out: Counter[str] = Counter()
    frames = list_frames(root, every, left_out)
    check_others(frames, out)
    ignored = sum(frame.label == IGNORED for frame in frames)
    left_out += sum(in_processes(partial(convert_frame, out=out), frames, workers), Counter())
    return (
        f'{out}: {len(frames)} frames with label maps; in {ignored} the object is ignored, '
        'because its mask holds several things',
        left_out,
    )


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    run_conversion(partial(convert, args.root, args.out, args.every, args.workers))


if __name__ == '__main__':
    main()
