"""Print a config with all that it inherits, as training reads it."""

import argparse

from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from pgseg_mm.cli.arguments import add_settings
from pgseg_mm.cli.processes import refusals
from pgseg_mm.cli.run_configs import find_config, read_with_settings, require_model
from pgseg_mm.engine.preflight import telling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--graph', action='store_true', help="print the model's layers, too")
    add_settings(parser)
    args = parser.parse_args()
    args.config = find_config(parser, args.config)
    cfg = read_with_settings(parser, args)
    print(cfg.pretty_text)
    if args.graph:
        require_model(parser, cfg)
        register_all_modules()
        with refusals(parser), telling('the model cannot be built'):
            print(MODELS.build(cfg.model))


if __name__ == '__main__':
    main()
