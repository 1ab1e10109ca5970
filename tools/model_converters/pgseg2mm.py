"""Convert a checkpoint of PGSeg's release into one of this project."""

import sys

from pgseg_mm.checkpoints.cli import convert, from_release

if __name__ == '__main__':
    sys.exit(convert(from_release(prototypes=True), __doc__))
