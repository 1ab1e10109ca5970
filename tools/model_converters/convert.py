"""Convert a checkpoint from another code base into one of this project, or back.

The names of the entries tell where it is from; one of this project becomes a folder for Hugging
Face's GroupViTModel where DST has no ending, and a checkpoint of PGSeg's or GroupViT's release
where it has one. --converter says which converter to take instead.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pgseg_mm.checkpoints.cli import (
    Converter,
    build_parser,
    from_hugging_face,
    from_release,
    run_converter,
    to_hugging_face,
    to_release,
)
from pgseg_mm.checkpoints.hugging_face import load_hugging_face
from pgseg_mm.checkpoints.release import has_prototypes, origin_of_names
from pgseg_mm.checkpoints.sources import fetch
from pgseg_mm.serialization.loading import CheckpointError

CONVERTERS: dict[str, Converter] = {
    'pgseg2mm': from_release(prototypes=True),
    'groupvit2mm': from_release(prototypes=False),
    'hf_groupvit2mm': from_hugging_face,
    'mm2pgseg': to_release,
    'mm2hf_groupvit': to_hugging_face,
}


def choose(args: argparse.Namespace) -> str:
    """Name of the converter for a checkpoint.

    Raises:
        FileNotFoundError: If it is not there.
        CheckpointError: If it cannot be read, or is of no known code base.
    """
    if args.converter is not None:
        return args.converter
    names = load_hugging_face(fetch(args.src), args.trust)[0].state_dict
    origin = origin_of_names(names)
    if origin == 'release':
        return 'pgseg2mm' if has_prototypes(names) else 'groupvit2mm'
    if origin == 'hugging_face':
        return 'hf_groupvit2mm'
    is_folder = Path(args.dst).is_dir() or not Path(args.dst).suffix
    return 'mm2hf_groupvit' if is_folder else 'mm2pgseg'


def main(argv: Sequence[str] | None = None, command: str | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; those of the process by default.
        command: Name of the command that this is.

    Returns:
        Exit status: 0 if the result was written, 1 if a partial match was refused, 2 if the input
        cannot be converted.
    """
    parser = build_parser(__doc__, command)
    parser.add_argument(
        '--converter',
        choices=CONVERTERS,
        help='which converter to take, by the name of its script beside this one',
    )
    args = parser.parse_args(argv)
    try:
        name = choose(args)
    except (CheckpointError, OSError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    print(f'converter: {name}')
    return run_converter(CONVERTERS[name], args, folder=name == 'mm2hf_groupvit')


if __name__ == '__main__':
    sys.exit(main())
