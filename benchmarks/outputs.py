"""What the benchmarks share of their command lines and of their results."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgseg_mm.cli.arguments import check_output
from pgseg_mm.cli.provenance import describe_machine, versions
from pgseg_mm.serialization.atomic_files import write_json, write_text


def make_parser(description: str, markdown: str | None = None) -> argparse.ArgumentParser:
    """A parser with ``--json`` for all single results, and ``--markdown`` if there is a page.

    Args:
        description: Docstring of the benchmark.
        markdown: Help for ``--markdown``; a benchmark without a page has none.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', type=Path, help='write all single results here')
    if markdown is not None:
        parser.add_argument('--markdown', type=Path, help=markdown)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; leaves with the usage message if results could not be written in the end."""
    args = parser.parse_args(argv)
    for name in ('json', 'markdown'):
        if (path := getattr(args, name, None)) is not None:
            check_output(parser, path, f'--{name}')
    return args


def origin(name: str, *libraries: str) -> dict[str, Any]:
    """Command, machine and versions, which ``cli.provenance.describe`` puts into words.

    Args:
        name: Module of the benchmark, without its package.
        libraries: Distributions whose versions matter, besides OpenMMLab's.
    """
    return {
        'command': shlex.join(['python', '-m', f'benchmarks.{name}', *sys.argv[1:]]),
        'machine': describe_machine(),
        'versions': versions(*libraries),
    }


def write_results(
    args: argparse.Namespace, result: dict[str, Any], page: str | None = None
) -> None:
    """Write what the arguments of :func:`make_parser` ask for.

    Args:
        args: Parsed arguments.
        result: All single results.
        page: Text of the page.
    """
    if args.json is not None:
        write_json(args.json, result)
    if page is not None and args.markdown is not None:
        write_text(args.markdown, page)
