"""What the scripts in tools/model_converters share."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pgseg_mm.cli.checkpoint_sources import SOURCES
from pgseg_mm.serialization.loading import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
)
from pgseg_mm.serialization.saving import save_atomically

from .architecture import PUBLISHED, Architecture, model_of_config
from .conversion import Conversion
from .hugging_face import (
    hugging_face_to_mm,
    load_hugging_face,
    mm_to_hugging_face,
    save_hugging_face,
)
from .mm_checkpoint import GUESSED_HEADS, architecture_of, origin_of, save_mm
from .release import has_prototypes, mm_to_release, release_to_mm
from .release_config import heads_of_release_config
from .sources import fetch

Converter = Callable[[argparse.Namespace], tuple[Conversion, Callable[[Path], None]]]


def convert(
    converter: Converter, description: str, folder: bool = False, argv: list[str] | None = None
) -> int:
    """Run a converter from the command line.

    Args:
        converter: Makes of the arguments a conversion and what writes it.
        description: What the script does.
        folder: Whether the result is a folder.
        argv: Arguments; those of the process by default.

    Returns:
        Exit status: 0 if the result was written, 1 if a partial match was refused, 2 if the input
        cannot be converted.
    """
    return run_converter(converter, build_parser(description).parse_args(argv), folder)


def run_converter(converter: Converter, args: argparse.Namespace, folder: bool = False) -> int:
    """Run a converter; see :func:`convert`.

    Args:
        converter: Makes of the arguments a conversion and what writes it.
        args: Arguments of :func:`build_parser`.
        folder: Whether the result is a folder.
    """
    if args.config is not None and not Path(args.config).is_file():
        print(f'error: config file not found: {args.config}', file=sys.stderr)
        return 2
    destination = Path(args.dst)
    try:
        args.source = fetch(args.src)
        _check_destination(args.source, destination, folder)
        conversion, write = converter(args)
        print(conversion.report)
        report = conversion.report
        counts = (
            f'{len(report.used)} used, {len(report.missing)} missing, '
            f'{len(report.unexpected)} unexpected, {len(report.mismatched)} of another shape'
        )
        if report.training_only:
            counts += f', {len(report.training_only)} for training here only'
        if not conversion.state_dict:
            raise CheckpointError(f'nothing of {args.src} can be converted')
        if not report.complete and not args.allow_partial:
            print(
                f'error: {args.src} matches in part only ({counts}); nothing was written. '
                'See the lists above; --allow-partial writes what matches.',
                file=sys.stderr,
            )
            return 1
        write(destination)
    except (CheckpointError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'{destination}: written ({counts})')
    return 0


def build_parser(description: str, command: str | None = None) -> argparse.ArgumentParser:
    """Describe the command line of a converter.

    Args:
        description: What it does.
        command: Its name, if it is not that of the script.
    """
    parser = argparse.ArgumentParser(
        prog=command,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('src', help=f'checkpoint to convert: {SOURCES}')
    parser.add_argument('dst', help='where to write the result; an existing one is replaced')
    parser.add_argument(
        '--config',
        help='config whose model the checkpoint must fit; by default the architecture is told '
        'from the shapes',
    )
    parser.add_argument(
        '--allow-partial', action='store_true', help='write what matches, whatever is left over'
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle everything in SRC; this runs any code that it holds',
    )
    return parser


def _check_destination(source: Path, destination: Path, folder: bool) -> None:
    if destination.exists() and destination.is_dir() != folder:
        what = 'a file; give a folder' if folder else 'a folder; give a file'
        raise CheckpointError(f'{destination} is {what} to write to')
    if not folder and destination.suffix == '.safetensors':
        raise CheckpointError(
            f'{destination} would be a file of PyTorch; give a name that ends in .pth'
        )
    if destination.exists() and source.exists() and destination.samefile(source):
        raise CheckpointError(f'{destination} is the checkpoint to convert; give another name')


def _tell(checkpoint: Checkpoint, architecture: Architecture, heads: str) -> None:
    published = replace(PUBLISHED, prototypes=architecture.prototypes)
    differences = architecture.differences(published)
    name = 'PGSeg' if architecture.prototypes else 'GroupViT'
    size = f'other than published: {"; ".join(differences)}' if differences else 'published size'
    print(f'architecture: {name}, {size}')
    print(f'heads: {architecture.num_heads}, text {architecture.text_heads}, {heads}')
    if checkpoint.extras:
        print(f'left aside: {", ".join(checkpoint.extras)}')
    if checkpoint.foreign:
        print(f'not loaded, foreign types: {", ".join(checkpoint.foreign)}')


def from_release(prototypes: bool) -> Converter:
    """Converter from PGSeg's release, or from GroupViT's without prototypes."""

    def converter(args: argparse.Namespace) -> tuple[Conversion, Callable[[Path], None]]:
        # a file, or a folder like theirs
        checkpoint, _ = load_hugging_face(args.source, args.trust)
        model, architecture = model_of_config(args.config) if args.config else (None, None)
        heads = heads_of_release_config(checkpoint.extras.get('config'))
        conversion = release_to_mm(checkpoint.state_dict, heads, model, architecture)
        found = has_prototypes(checkpoint.state_dict)
        if prototypes and not found:
            raise CheckpointError(
                f'{args.src} has no prototypes (downsample_spatial): it is of GroupViT, use '
                'groupvit2mm.py'
            )
        if found and not prototypes:
            raise CheckpointError(
                f'{args.src} has prototypes (downsample_spatial): it is of PGSeg, use pgseg2mm.py'
            )
        origin = (
            'from --config'
            if args.config
            else "from the checkpoint's config"
            if heads
            else GUESSED_HEADS
        )
        _tell(checkpoint, conversion.architecture, origin)
        return conversion, _mm_writer(args, conversion, checkpoint)

    return converter


def from_hugging_face(args: argparse.Namespace) -> tuple[Conversion, Callable[[Path], None]]:
    """Converter from Hugging Face's GroupViT."""
    checkpoint, config = load_hugging_face(args.source, args.trust)
    model, architecture = model_of_config(args.config) if args.config else (None, None)
    conversion = hugging_face_to_mm(checkpoint.state_dict, config, model, architecture)
    origin = 'from --config' if args.config else 'from config.json' if config else GUESSED_HEADS
    _tell(checkpoint, conversion.architecture, origin)
    return conversion, _mm_writer(args, conversion, checkpoint)


def _mm_writer(
    args: argparse.Namespace, conversion: Conversion, checkpoint: Checkpoint
) -> Callable[[Path], None]:
    keys = list(checkpoint.state_dict)
    return lambda path: save_mm(path, conversion, Path(args.src).name, keys)


def _architecture(args: argparse.Namespace, checkpoint: Checkpoint) -> Architecture:
    if args.config:
        architecture, origin = model_of_config(args.config)[1], 'from --config'
    else:
        architecture, origin = architecture_of(checkpoint)
    _tell(checkpoint, architecture, origin)
    return architecture


def to_release(args: argparse.Namespace) -> tuple[Conversion, Callable[[Path], None]]:
    """Converter to PGSeg's release, or to GroupViT's for a model without prototypes."""
    checkpoint = load_checkpoint(args.src, args.trust)
    inert, order = origin_of(checkpoint)
    architecture = _architecture(args, checkpoint)
    conversion = mm_to_release(checkpoint.state_dict, architecture, inert, order)
    content = {'model': conversion.state_dict}
    return conversion, lambda path: save_atomically(path, content)


def to_hugging_face(args: argparse.Namespace) -> tuple[Conversion, Callable[[Path], None]]:
    """Converter to a folder for ``transformers.GroupViTModel``."""
    checkpoint = load_checkpoint(args.src, args.trust)
    conversion = mm_to_hugging_face(checkpoint.state_dict, _architecture(args, checkpoint))
    return conversion, lambda path: save_hugging_face(path, conversion)
