#!/usr/bin/env python3
"""Make captioned scenes of OpenMoji graphics on photographed textures.

The training pairs come without masks, the validation images with label maps in MMSegmentation's
layout. README.md beside this file describes the options and what is written.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import resvg_py
import skimage
from emoji_scene_render import Composer, SceneSettings, openmoji_folder, openmoji_version
from emoji_scene_words import MAX_CLASSES, MIN_CLASSES, TEMPLATE_WORDS, SceneVocabulary
from PIL import Image
from tqdm import tqdm
from wrong_pairs import shuffle

from pgseg_mm.serialization.atomic_files import write_json

TRAIN, VAL = 0, 1  # the split's place in the random seeds
SPLIT_NAMES = ('train', 'val')
SCENES_AT_A_TIME = 25  # that a process makes
OWN_FILES = (
    'captions_train.jsonl',
    'classes.txt',
    'objects.txt',
    'textures.txt',
    'held_out.txt',
    'meta.json',
)
OWN_FOLDERS = ('images/train', 'images/val', 'annotations/val')


@lru_cache(maxsize=1)
def _composer(settings: SceneSettings) -> Composer:
    return Composer(settings)


def write_scenes(job: tuple[int, int, int], settings: SceneSettings, out_dir: Path) -> list[str]:
    """Write scenes ``start`` to ``stop - 1`` of a split and return their captions.

    Args:
        job: the split, ``start`` and ``stop``.
        settings: settings of the data set.
        out_dir: folder of the data set, its folders already made.

    Returns:
        The captions of training scenes; nothing for validation scenes.
    """
    split, start, stop = job
    composer = _composer(settings)
    captions = []
    for index in range(start, stop):
        scene = composer.scene(split, index)
        name = f'{index:06d}.png'
        Image.fromarray(scene.image).save(out_dir / 'images' / SPLIT_NAMES[split] / name)
        if split == TRAIN:
            captions.append(composer.caption(split, index, scene))
        else:
            kind = np.uint8 if settings.num_classes <= 255 else np.uint16
            Image.fromarray(scene.labels.astype(kind)).save(out_dir / 'annotations/val' / name)
    return captions


ATTRIBUTION_PAGE = """# Attribution

The objects in these images are graphics of [OpenMoji](https://openmoji.org/), the open-source
emoji and icon project, version {version}, by the OpenMoji authors, under
[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/). They have been scaled, rotated,
mirrored, brightened or darkened and pasted on textures. The images are therefore under
CC BY-SA 4.0 as well: whoever passes them on names OpenMoji and keeps the licence.

The textures are cut from the photographs `grass`, `brick` and `gravel` that scikit-image
distributes, all under CC0 1.0: `grass` by linolafett (DeviantArt), `brick` (Bricks25) and
`gravel` (Gravel04) from CC0Textures. They have been cropped, scaled, mirrored, smoothed and
coloured.

Class names follow the English short names of the Unicode CLDR (Unicode License V3) or are common
words for the same thing.
"""


def is_own_output(out_dir: Path) -> bool:
    """Whether a folder holds the output of this tool, whole or broken off."""
    path = out_dir / 'ATTRIBUTION.md'
    start = ATTRIBUTION_PAGE.split('{version}')[0]
    return path.is_file() and path.read_text(encoding='utf-8', errors='replace').startswith(start)


def write_texts(settings: SceneSettings, out_dir: Path, captions: Sequence[str]) -> None:
    """Write the captions, the vocabulary and, last, the settings."""
    composer = Composer(settings)
    vocabulary = composer.vocabulary
    held_out = [vocabulary.names[label] for label in sorted(composer.held_out)]
    if settings.shuffle_captions:
        captions = shuffle(captions, settings.seed)
    records = [
        json.dumps({'image': f'images/train/{i:06d}.png', 'caption': caption})
        for i, caption in enumerate(captions)
    ]
    texts = {
        'captions_train.jsonl': records,
        'classes.txt': vocabulary.names,
        'objects.txt': [c.name for c in vocabulary.objects],
        'textures.txt': [c.name for c in vocabulary.textures],
        'held_out.txt': held_out,
    }
    for name, lines in texts.items():
        text = ''.join(f'{line}\n' for line in lines)
        (out_dir / name).write_text(text, encoding='utf-8', newline='\n')
    meta = {
        **asdict(settings),
        'held_out_classes': held_out,
        'num_objects': len(vocabulary.objects),
        'num_textures': len(vocabulary.textures),
        'versions': {
            'openmoji': openmoji_version(),
            'scikit-image': skimage.__version__,
            'pillow': Image.__version__,
            'resvg_py': resvg_py.__version__,
            'numpy': np.__version__,
        },
    }
    write_json(out_dir / 'meta.json', meta, indent=2)


def make_dataset(
    settings: SceneSettings, out_dir: Path, workers: int = 1, quiet: bool = False
) -> None:
    """Write the data set into ``out_dir``; earlier output of this tool there is replaced.

    Args:
        settings: what to write.
        out_dir: folder of the data set, made if need be.
        workers: number of processes; 1 does all the work in this one.
        quiet: whether to leave out the progress bar.
    """
    for name in OWN_FILES:  # first what says that the rest is complete
        (out_dir / name).unlink(missing_ok=True)
    for name in OWN_FOLDERS:
        shutil.rmtree(out_dir / name, ignore_errors=True)
        (out_dir / name).mkdir(parents=True)
    (out_dir / 'ATTRIBUTION.md').write_text(
        ATTRIBUTION_PAGE.format(version=openmoji_version()), encoding='utf-8', newline='\n'
    )
    jobs = [
        (split, start, min(start + SCENES_AT_A_TIME, total))
        for split, total in ((TRAIN, settings.num_train), (VAL, settings.num_val))
        for start in range(0, total, SCENES_AT_A_TIME)
    ]
    work = partial(write_scenes, settings=settings, out_dir=out_dir)
    captions: list[str] = []
    with tqdm(total=settings.num_train + settings.num_val, unit='scene', disable=quiet) as bar:

        def collect(results: Iterable[list[str]]) -> None:
            for job, result in zip(jobs, results, strict=True):
                captions.extend(result)
                bar.update(job[2] - job[1])

        if workers == 1:
            collect(map(work, jobs))
        else:
            with ProcessPoolExecutor(max_workers=workers) as pool:
                collect(pool.map(work, jobs))
    write_texts(settings, out_dir, captions)


def default_weights(max_objects: int) -> tuple[float, ...]:
    """Weights of 0, 1, 2, ... objects: 0.1, 0.55, 0.25, 0.1 and then half of the one before."""
    weights = [0.1, 0.55, 0.25, 0.1]
    while len(weights) <= max_objects:
        weights.append(weights[-1] / 2)
    return tuple(weights[: max_objects + 1])


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add('out_dir', type=Path, metavar='OUT_DIR', help='folder to write to')
    add('--num-train', type=int, default=4000, metavar='N', help='training pairs')
    add('--num-val', type=int, default=200, metavar='N', help='validation images with masks')
    add(
        '--num-classes',
        type=int,
        default=30,
        metavar='N',
        help=f'objects and textures together, {MIN_CLASSES} to {MAX_CLASSES}',
    )
    add(
        '--image-size',
        type=int,
        nargs='+',
        default=[64],
        metavar='PIXELS',
        help='side of a square image, or its height and width',
    )
    add('--max-objects', type=int, default=3, metavar='N', help='most objects in a scene')
    add(
        '--object-count-weights',
        type=float,
        nargs='+',
        default=None,
        metavar='WEIGHT',
        help='relative frequency of scenes with 0, 1, 2, ... objects, one number for each count '
        'up to --max-objects; without it 0.1 0.55 0.25 0.1, then halving',
    )
    add(
        '--object-scale',
        type=float,
        nargs=2,
        default=[0.35, 0.7],
        metavar=('MIN', 'MAX'),
        help='side of an object as a share of the short image side',
    )
    add(
        '--held-out',
        nargs='+',
        default=[],
        metavar='WORD',
        help='class names, or words of class names, that no training caption may hold',
    )
    add(
        '--shuffle-captions',
        action='store_true',
        help='give every training image the caption of another one (control experiment)',
    )
    add('--seed', type=int, default=0, help='seed of all random choices')
    add('--workers', type=int, default=2, metavar='N', help='processes; the output is the same')
    add('--overwrite', action='store_true', help='replace earlier output in OUT_DIR')
    return parser


def check_held_out(
    parser: argparse.ArgumentParser, words: Sequence[str], vocabulary: SceneVocabulary
) -> tuple[str, ...]:
    """Check the held-out words against the vocabulary; ends the program if one is no good."""
    words = tuple(dict.fromkeys(word.strip().lower() for word in words))
    known = dict.fromkeys([*vocabulary.names, *(w for n in vocabulary.names for w in n.split())])
    hidden: set[int] = set()
    for word in words:
        labels = vocabulary.labels_with(word) if word in known else []
        if not labels:
            close = difflib.get_close_matches(word, list(known), n=5, cutoff=0.5)
            hint = f'; close to it: {", ".join(close)}' if close else ''
            parser.error(
                f'--held-out: {word!r} is not in the vocabulary of '
                f'{len(vocabulary.names)} classes{hint}'
            )
        if word in TEMPLATE_WORDS:
            parser.error(f'--held-out: the captions need the word {word!r}; give the whole name')
        hidden.update(labels)
    if len(hidden) == len(vocabulary.names):
        parser.error('--held-out: no class is left that a caption may name')
    return words


def parse_args(argv: Sequence[str] | None = None) -> tuple[SceneSettings, argparse.Namespace]:
    """Read and check the command line."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not MIN_CLASSES <= args.num_classes <= MAX_CLASSES:
        parser.error(
            f'--num-classes must be from {MIN_CLASSES} to {MAX_CLASSES}, got {args.num_classes}'
        )
    if len(args.image_size) > 2 or min(args.image_size) < 16:
        parser.error('--image-size takes one side, or a height and a width, of at least 16 pixels')
    if args.num_train < 0 or args.num_val < 0 or args.num_train + args.num_val == 0:
        parser.error('--num-train and --num-val must not be negative nor both zero')
    if args.shuffle_captions and args.num_train < 2:
        parser.error('--shuffle-captions needs at least two training pairs')
    if args.max_objects < 1:
        parser.error(f'--max-objects must be at least 1, got {args.max_objects}')
    weights = args.object_count_weights or default_weights(args.max_objects)
    if (
        len(weights) != args.max_objects + 1
        or not all(0 <= w < float('inf') for w in weights)
        or sum(weights) <= 0
    ):
        parser.error(
            '--object-count-weights takes one number, zero or more, for each count from 0 to '
            f'--max-objects ({args.max_objects}), not all zero'
        )
    smallest, largest = args.object_scale
    if not 0.05 <= smallest <= largest <= 1:
        parser.error('--object-scale: 0.05 <= MIN <= MAX <= 1 is required')
    if args.seed < 0:
        parser.error(f'--seed must not be negative, got {args.seed}')
    if args.workers < 1:
        parser.error(f'--workers must be at least 1, got {args.workers}')
    held_out = check_held_out(parser, args.held_out, SceneVocabulary.of_size(args.num_classes))
    if args.out_dir.exists() and not args.out_dir.is_dir():
        parser.error(f'{args.out_dir} is not a folder')
    if args.out_dir.is_dir() and any(args.out_dir.iterdir()):
        if not args.overwrite:
            parser.error(f'{args.out_dir} is not empty; give --overwrite to replace earlier output')
        if not is_own_output(args.out_dir):
            parser.error(
                f'{args.out_dir} holds other files than earlier output of this tool; '
                '--overwrite leaves such a folder alone'
            )
    size = args.image_size * 2 if len(args.image_size) == 1 else args.image_size
    settings = SceneSettings(
        num_train=args.num_train,
        num_val=args.num_val,
        num_classes=args.num_classes,
        image_size=(size[0], size[1]),
        max_objects=args.max_objects,
        object_count_weights=tuple(weights),
        object_scale=(smallest, largest),
        seed=args.seed,
        held_out=held_out,
        shuffle_captions=args.shuffle_captions,
    )
    return settings, args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings, args = parse_args(argv)
    openmoji_folder()  # fails now, not in the processes, where the graphics are missing
    try:
        make_dataset(settings, args.out_dir, workers=args.workers)
    except OSError as error:
        sys.exit(f'error: the scenes cannot be written: {error}')
    print(
        f'{args.out_dir}: {settings.num_train} training pairs, {settings.num_val} validation '
        f'images, {settings.num_classes} classes'
    )


if __name__ == '__main__':
    main()
