"""Convert a checkpoint of this project for PGSeg's or, without prototypes, GroupViT's release."""

import sys

from pgseg_mm.checkpoints.cli import convert, to_release

if __name__ == '__main__':
    sys.exit(convert(to_release, __doc__))
