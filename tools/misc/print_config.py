"""Print a config with all that it inherits, as training reads it."""

import argparse

from mmengine.config import DictAction
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from pgseg_mm.utils.launch import find_config, read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--graph', action='store_true', help="print the model's layers, too")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    args.config = find_config(parser, args.config)
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    print(cfg.pretty_text)
    if args.graph:
        register_all_modules()
        print(MODELS.build(cfg.model))


if __name__ == '__main__':
    main()
