"""Segment an image, or a folder of them, by any words."""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from mmengine.config import Config
from PIL import Image
from tqdm import tqdm

from pgseg_mm.apis import PGSegInferencer, Segmentation
from pgseg_mm.apis.inferencer import MAX_PIXELS
from pgseg_mm.apis.model_choice import (
    add_model_choice,
    add_pamr,
    read_chosen_config,
)
from pgseg_mm.apis.naming_choice import add_naming
from pgseg_mm.apis.results import OtherClassesError
from pgseg_mm.cli.arguments import (
    add_model_options,
    check_output,
    find_device,
    print_any_text,
)
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.errors import RunError
from pgseg_mm.messages import shown
from pgseg_mm.text.words import resolve

MAX_SHOWN_CLASSES = 6
OUT_DIR = Path('outputs')


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Describe the command line.

    Args:
        command: Name of the command that this is; then it takes several images, and the model is
            an option.
    """
    parser = argparse.ArgumentParser(prog=command, description=__doc__)
    add = parser.add_argument
    if command is None:
        add('img', help='image, or folder of images')
    else:
        add('img', nargs='+', metavar='IMAGE', help='image, or folder of images')
    add_model_choice(parser, named=command is not None)
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        '--texts', help="what to look for, such as 'dog . red car . grass', or with commas"
    )
    words.add_argument(
        '--vocabulary',
        help='vocabulary file, one class a line, or one that comes with the package, such as '
        "voc21; without it and --texts the checkpoint's classes",
    )
    outputs = parser.add_mutually_exclusive_group()
    outputs.add_argument('--out-file', type=Path, help='file for the picture of a single image')
    outputs.add_argument(
        '--out-dir',
        type=Path,
        help='folder for pictures (vis), masks (pred) and areas.csv '
        f'({OUT_DIR}; {OUT_DIR}-2 and so on where results of other classes lie there)',
    )
    add(
        '--background',
        action=argparse.BooleanOptionalAction,
        default=None,
        help='whether a background takes what is like none of the words; by default if the words '
        'name it, or --threshold is given',
    )
    add(
        '--threshold',
        type=number_from(0, 1, float),
        help="score of the background, 0 to 1; the config's by default",
    )
    add_naming(parser)
    add_pamr(parser)
    add('--groups', action='store_true', help='draw the groups of the first and last stage, too')
    add('--batch-size', type=number_from(1), default=1, help='images at a time')
    add(
        '--max-pixels',
        type=number_from(1),
        default=MAX_PIXELS,
        metavar='N',
        help='larger images are refused before they are decoded (%(default)s)',
    )
    add('--device', help='such as cpu or cuda:0; an accelerator by default, if there is one')
    add_model_options(parser)
    return parser


def result_line(result: Segmentation) -> str:
    """An image and the classes in it on a line."""
    if result.error is not None:
        return f'failed: {result.error}'
    areas = list(result.areas.items())
    words = [f'{name} {share:.1%}' for name, share in areas[:MAX_SHOWN_CLASSES]]
    rest = [f'{len(areas) - MAX_SHOWN_CLASSES} more'] if len(areas) > MAX_SHOWN_CLASSES else []
    return f'{shown(result.name)}: {", ".join(words + rest)}'


def is_same_file(one: Path, other: str) -> bool:
    """Whether two paths lead to one file."""
    return one.exists() and Path(other).exists() and one.samefile(other)


def can_be_written(path: Path) -> bool:
    """Whether a picture can be written to a file of this suffix."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        return False
    try:
        Image.new('RGB', (16, 16)).save(io.BytesIO(), kind)
    except Exception:  # formats that take no colours, or need another program, fail in many ways
        return False
    return True


def check_request(args: argparse.Namespace) -> None:
    """Look at images and words before a model is fetched and loaded.

    Raises:
        FileNotFoundError: There is no such image or vocabulary.
        ValueError: The words are faulty.
    """
    if isinstance(args.img, str) and '://' not in args.img and not Path(args.img).exists():
        raise FileNotFoundError(f'{shown(args.img)} does not exist')
    if args.texts is not None or args.vocabulary is not None:
        resolve(args.texts, args.vocabulary)


def begin(
    inferencer: PGSegInferencer, args: argparse.Namespace
) -> tuple[Path | None, Iterator[Segmentation]]:
    """The folder that results are written to, and the results as they are made."""
    stream = partial(
        inferencer.stream,
        args.img,
        args.texts,
        args.vocabulary,
        background=args.background,
        threshold=args.threshold,
        batch_size=args.batch_size,
        groups=args.groups,
        naming=args.naming,
        pamr=args.pamr,
        pictures=args.out_file is not None,
        progress=True,
    )
    if args.out_file is not None:
        return None, stream()
    if args.out_dir is not None:
        return args.out_dir, stream(out_dir=args.out_dir)
    for number in count(1):
        folder = OUT_DIR if number == 1 else OUT_DIR.with_name(f'{OUT_DIR.name}-{number}')
        try:
            return folder, stream(out_dir=folder)
        except OtherClassesError:
            continue  # of an earlier try, and stays
    raise AssertionError('numbers have no end')


def segment_files(args: argparse.Namespace, cfg: Config) -> int:
    """Segment the images and write what is asked for.

    Args:
        args: The command's arguments.
        cfg: The config, with the settings that were overridden.

    Returns:
        Number of images that failed.
    """
    inferencer = PGSegInferencer(
        cfg,
        args.checkpoint,
        device=args.device,
        trust=args.trust,
        max_pixels=args.max_pixels,
        allow_partial=args.allow_partial,
    )
    done = failed = 0
    folder, results = begin(inferencer, args)
    for result in results:
        done += 1
        if result.error is not None:
            failed += 1
        elif args.out_file is not None:
            args.out_file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(result.picture).save(args.out_file)
        tqdm.write(result_line(result))
    if done > failed:
        if folder is None:
            print(f'Picture in {shown(args.out_file)}')
        else:
            print(f'Pictures in {shown(folder / "vis")}, masks in {shown(folder / "pred")}')
    return failed


def main(argv: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run the command; the exit status is 1 if an image failed, and 2 if none could be tried.

    Args:
        argv: Arguments; those of the process by default.
        command: As for :func:`build_parser`.
    """
    print_any_text()
    parser = build_parser(command)
    args = parser.parse_args(argv)
    if isinstance(args.img, list) and len(args.img) == 1:
        (args.img,) = args.img
    args.device = find_device(parser, args.device)
    if args.out_file is not None and (isinstance(args.img, list) or Path(args.img).is_dir()):
        parser.error('--out-file is for a single image; use --out-dir for several')
    if args.out_file is not None and not can_be_written(args.out_file):
        parser.error(f'--out-file must end in .png, .jpg or the like, got {args.out_file}')
    if args.out_file is not None and is_same_file(args.out_file, args.img):
        parser.error(f'--out-file {args.out_file} is the image itself; name another file')
    if args.out_file is not None:
        check_output(parser, args.out_file, '--out-file')
    try:
        check_request(args)
        cfg = read_chosen_config(parser, args)
        failed = segment_files(args, cfg)
    except (OSError, RunError, TypeError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
