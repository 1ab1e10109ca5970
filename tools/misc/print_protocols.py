"""Say of what evaluation protocols consist, as tables in Markdown.

python tools/misc/print_protocols.py sclip naclip
"""

import argparse

from pgseg_mm.cli.config_files import ConfigError
from pgseg_mm.cli.protocol_tables import describe_protocol
from pgseg_mm.cli.protocols import protocol_names, read_protocol


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'protocols',
        nargs='*',
        metavar='NAME',
        help=f'of {", ".join(protocol_names())}, or config files with protocol=dict(...) '
        '(default: all that come with the package)',
    )
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    try:
        protocols = [read_protocol(name) for name in args.protocols or protocol_names()]
        tables = ['\n'.join(describe_protocol(protocol)) for protocol in protocols]
    except (ConfigError, FileNotFoundError) as error:
        parser.error(str(error))
    print('\n\n'.join(tables))


if __name__ == '__main__':
    main()
