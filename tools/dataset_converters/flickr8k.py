r"""Flickr8k, as it is distributed, into pairs to train on and photographs to retrieve.

    python tools/dataset_converters/flickr8k.py Flickr8k data/flickr8k --size 96

The folder holds Flickr8k.token.txt, Flickr_8k.trainImages.txt, .devImages.txt and .testImages.txt,
and the photographs in Flicker8k_Dataset or Flickr8k_Dataset (or where --images says). Written are
images/ and captions_train.jsonl, captions_dev.jsonl, captions_test.jsonl: a line for each
photograph, with all its captions.
"""

import argparse
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from segment_maps import AnnotationError, add_workers, in_processes, run_conversion
from wrong_pairs import shuffle

from pgseg_mm import limits
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.datasets.pairs.tar_files import READ_ERRORS, members, open_tar
from pgseg_mm.files.image_files import UnreadableImage, open_image, read_image_file, upright
from pgseg_mm.messages import shown
from pgseg_mm.serialization.loading import write_atomically

SPLITS = ('train', 'dev', 'test')
TOKENS = 'Flickr8k.token.txt'
FOLDERS = ('Flicker8k_Dataset', 'Flickr8k_Dataset')
"""Names of the folder of photographs; the first is the one in the archive."""
JPEG_QUALITY = 95


class Source(NamedTuple):
    """Where the file of a photograph is: a file, or a part of a tar file."""

    path: Path
    offset: int = 0
    size: int | None = None
    """In bytes, for a part."""


class Task(NamedTuple):
    """A photograph to write."""

    source: Source
    target: Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, help='folder of the captions and splits')
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        '--images',
        type=Path,
        metavar='PATH',
        help=f'folder or tar file of the photographs (default: ROOT/{FOLDERS[0]})',
    )
    parser.add_argument(
        '--size',
        type=number_from(1),
        metavar='PIXELS',
        help='squeeze photographs to squares of this side (default: copy the files as they are)',
    )
    parser.add_argument(
        '--shuffle-captions',
        action='store_true',
        help='give every training photograph the captions of another one, as a control',
    )
    parser.add_argument(
        '--seed', type=number_from(0), default=0, help='of the shuffled captions (default: 0)'
    )
    add_workers(parser)
    return parser


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank.

    Raises:
        AnnotationError: If there is no such file, or it is not UTF-8.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except FileNotFoundError as error:
        raise AnnotationError(
            f'{path} does not exist; give the folder of Flickr8k_text.zip, unpacked'
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f'{path} is not UTF-8: {error}') from error
    return [line for line in text.split('\n') if line.strip()]


def read_splits(root: Path) -> dict[str, list[str]]:
    """Names of the photographs of each split, in the order of its file.

    Raises:
        AnnotationError: If a file is missing or empty, a name is that of no file in a folder, or a
            photograph is in two splits.
    """
    splits: dict[str, list[str]] = {}
    home: dict[str, str] = {}
    for split in SPLITS:
        path = root / f'Flickr_8k.{split}Images.txt'
        splits[split] = list(dict.fromkeys(line.strip() for line in read_lines(path)))
        if not splits[split]:
            raise AnnotationError(f'{path} names no photograph')
        for name in splits[split]:
            if name != Path(name).name or '\\' in name or '\0' in name:
                raise AnnotationError(f'{path} names {shown(name)}; expected the name of a file')
            if home.setdefault(name, split) != split:
                raise AnnotationError(
                    f'{shown(name)} is in the splits {home[name]} and {split}; a photograph must '
                    'be in one of them'
                )
    return splits


def read_captions(root: Path, left_out: Counter[str]) -> dict[str, list[str]]:
    """Captions of each photograph, by its name.

    Raises:
        AnnotationError: If the file is missing or has no caption.
    """
    captions: dict[str, list[str]] = {}
    for line in read_lines(root / TOKENS):
        key, tab, caption = line.partition('\t')
        name, mark, number = key.rpartition('#')
        if not (tab and mark and number.isdecimal()):
            left_out['line of captions that is not NAME#NUMBER, tab, caption'] += 1
        elif not caption.strip():
            left_out['empty caption'] += 1
        else:
            captions.setdefault(name, []).append(' '.join(caption.split()))
    if not captions:
        raise AnnotationError(f'{root / TOKENS} has no line NAME#NUMBER, tab, caption')
    return captions


def find_images(root: Path, images: Path | None) -> dict[str, Source]:
    """Files of photographs by name, in a folder or a tar file.

    Raises:
        AnnotationError: If there is neither, or the tar file is compressed or damaged.
    """
    given = [images] if images else [root / name for name in FOLDERS]
    path = next((path for path in given if path.exists()), None)
    if path is None:
        raise AnnotationError(
            f'{given[0]} does not exist; unpack Flickr8k_Dataset.zip there, or give --images'
        )
    if path.is_dir():
        return {file.name: Source(file) for file in sorted(path.iterdir()) if file.is_file()}
    with path.open('rb') as file:
        magic = file.read(6)
    if magic.startswith((b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'PK')):
        raise AnnotationError(f'{path} is compressed; unpack it, and give the folder')
    try:
        with open_tar(str(path)) as archive:
            return {
                Path(member.name).name: Source(path, member.offset_data, member.size)
                for member in members(archive)
                if member.isreg() and not member.issparse()
            }
    except READ_ERRORS as error:
        raise AnnotationError(f'{path} is no sound tar file: {shown(error)}') from error


def read_source(source: Source) -> bytes:
    """The file of a photograph.

    Raises:
        UnreadableImage: If it is larger than an image may be, or no regular file.
    """
    if source.size is None:
        return read_image_file(source.path)
    if source.size > limits.MAX_IMAGE_BYTES:
        raise UnreadableImage(str(source.path), f'has a member of {source.size} bytes')
    with source.path.open('rb') as file:
        file.seek(source.offset)
        return file.read(source.size)


def write_image(task: Task, size: int | None) -> Counter[str]:
    """Write a photograph, squeezed to a square if there is a size.

    Returns:
        One broken photograph, by its name, if it cannot be decoded.
    """
    try:
        content = read_source(task.source)
        image = open_image(content, task.target.name)
    except UnreadableImage:
        return Counter({task.target.name: 1})
    if size is not None and image.size != (size, size):
        file = io.BytesIO()
        squeezed = upright(image).convert('RGB').resize((size, size), Image.Resampling.BICUBIC)
        squeezed.save(file, 'JPEG', quality=JPEG_QUALITY)
        content = file.getvalue()
    write_atomically(task.target, lambda path: path.write_bytes(content))
    return Counter()


def choose(
    splits: dict[str, list[str]],
    captions: dict[str, list[str]],
    sources: dict[str, Source],
    left_out: Counter[str],
) -> dict[str, list[str]]:
    """Photographs of each split that are there and have a caption; the others are counted.

    Raises:
        AnnotationError: If a split has none.
    """
    listed = {name for names in splits.values() for name in names}
    for what, names in (
        ('photograph in no split', sources.keys() - listed),
        ('photograph of a split that is missing', listed - sources.keys()),
        ('photograph of a split without a caption', (listed & sources.keys()) - captions.keys()),
    ):
        left_out[what] += len(names)
    left_out['caption of a photograph that is not there'] += sum(
        len(lines) for name, lines in captions.items() if name not in sources
    )
    usable = sources.keys() & captions.keys()
    chosen = {split: [name for name in names if name in usable] for split, names in splits.items()}
    for split, names in chosen.items():
        if not names:
            raise AnnotationError(
                f'no photograph of the split {split} is there with a caption; are these the '
                'photographs and captions of Flickr8k?'
            )
    return chosen


def _check_apart(sources: dict[str, Source], folder: Path) -> None:
    """Refuse to write over the photographs that are read.

    Raises:
        AnnotationError: If they are in the folder that is written.
    """
    folders = {source.path.parent for source in sources.values() if source.size is None}
    if folder.exists() and any(source.samefile(folder) for source in folders):
        raise AnnotationError(
            f'{folder} holds the photographs themselves, which would be written over; name another '
            'folder to write'
        )


def write_rows(path: Path, names: Sequence[str], captions: Sequence[Sequence[str]]) -> int:
    """Write a line for each photograph, and return the number of captions."""
    rows = [
        json.dumps({'image': f'images/{name}', 'caption': list(lines)}, ensure_ascii=False)
        for name, lines in zip(names, captions, strict=True)
    ]
    text = ''.join(f'{row}\n' for row in rows)
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))
    return sum(map(len, captions))


def convert(args: argparse.Namespace) -> tuple[str, Counter[str]]:
    """Write photographs and captions.

    Returns:
        What was written, and what was left out, for each reason.

    Raises:
        AnnotationError: If an input is faulty.
    """
    left_out: Counter[str] = Counter()
    splits = read_splits(args.root)
    captions = read_captions(args.root, left_out)
    sources = find_images(args.root, args.images)
    _check_apart(sources, args.out / 'images')
    chosen = choose(splits, captions, sources, left_out)
    tasks = [
        Task(sources[name], args.out / 'images' / name)
        for names in chosen.values()
        for name in names
    ]
    work: Callable[[Task], Counter[str]] = partial(write_image, size=args.size)
    broken = sum(in_processes(work, tasks, args.workers), Counter())
    if broken:
        left_out[f'photograph that cannot be decoded, such as {min(broken)}'] += broken.total()
    said = []
    for split, listed in chosen.items():
        names = [name for name in listed if name not in broken]
        shuffled = split == 'train' and args.shuffle_captions
        if len(names) < 1 + shuffled:
            raise AnnotationError(
                f'the split {split} has {len(names)} photographs that can be decoded; expected '
                f'at least {1 + shuffled}'
            )
        rows = [captions[name] for name in names]
        if shuffled:
            rows = shuffle(rows, args.seed)
        count = write_rows(args.out / f'captions_{split}.jsonl', names, rows)
        said.append(f'{split}: {len(names)} photographs, {count} captions')
    return f'{args.out}: {"; ".join(said)}', +left_out


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    run_conversion(partial(convert, args))


if __name__ == '__main__':
    main()
