"""Give a checkpoint to others: upload it to the Hugging Face Hub, or write the folder for it.

    python tools/misc/push_to_hub.py epoch_30.pth owner/name --license cc-by-4.0
    python tools/misc/push_to_hub.py epoch_30.pth --to-folder pushed --metrics zero_shot.json

Weights go as safetensors, with the config that the checkpoint carries and a model card of what is
known. What was pushed is loaded by hf-hub:owner/name, and the folder by its path. A repository that
is there gets another commit. --format transformers writes what GroupViTModel.from_pretrained loads,
for a model without prototypes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pgseg_mm.checkpoints.push import HUB_FORMATS, About, push, save_for_hub
from pgseg_mm.cli.checkpoint_sources import SOURCES
from pgseg_mm.cli.config_files import ConfigError
from pgseg_mm.cli.run_configs import find_config
from pgseg_mm.serialization.loading import CheckpointError


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Describe the command line.

    Args:
        command: Name of the command that this is.
    """
    parser = argparse.ArgumentParser(
        prog=command, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('checkpoint', help=SOURCES)
    add('repository', nargs='?', metavar='owner/name', help='repository on the hub')
    add(
        '--to-folder',
        type=Path,
        metavar='FOLDER',
        help='write a folder instead, and upload nothing',
    )
    add('--format', choices=HUB_FORMATS, default='pgseg', help='what to write (%(default)s)')
    add('--config', help="config of the model; the checkpoint's own by default")
    add(
        '--metrics',
        type=Path,
        metavar='FILE',
        help='zero_shot.json of tools/analysis_tools/zero_shot_table.py',
    )
    add('--license', help="of the hub's list, such as cc-by-4.0, or other")
    add('--license-name', help='name of a licence that is not in the list')
    add('--license-link', help='where it can be read')
    add('--datasets', nargs='+', default=(), metavar='NAME', help='what it was trained on')
    add('--private', action='store_true', default=None, help='of a repository that is made')
    add('--trust', action='store_true', help='run whatever code the checkpoint may hold')
    return parser


def main(argv: Sequence[str] | None = None, command: str | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; those of the process by default.
        command: Name of the command that this is.

    Returns:
        Exit status.
    """
    parser = build_parser(command)
    args = parser.parse_args(argv)
    if (args.repository is None) == (args.to_folder is None):
        parser.error('give owner/name or --to-folder FOLDER')
    if args.license_name and args.license not in (None, 'other'):
        parser.error('--license-name goes with --license other')
    if args.config is not None:
        args.config = find_config(parser, args.config)
    about = About(
        'other' if args.license_name else args.license,
        args.license_name,
        args.license_link,
        tuple(args.datasets),
        args.metrics,
    )
    how = (about, args.format, args.config, args.trust)
    try:
        if args.to_folder is not None:
            print(f'Written to {save_for_hub(args.checkpoint, args.to_folder, *how)}')
        else:
            name = push(args.checkpoint, args.repository, *how, private=args.private)
            print(f'Pushed; PGSegInferencer({name!r}) loads it')
    except (CheckpointError, ConfigError, OSError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
