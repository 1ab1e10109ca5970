"""Arguments of a tool that starts runs, without the tool."""

import argparse

from pgseg_mm.cli.arguments import add_launch_arguments


def parse(*given: str) -> argparse.Namespace:
    """Arguments of a config and of :func:`add_launch_arguments`."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_launch_arguments(parser)
    return parser.parse_args(given)
