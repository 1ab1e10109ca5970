"""Convert a checkpoint without prototypes into a folder for Hugging Face's GroupViTModel."""

import sys

from pgseg_mm.checkpoints.cli import convert, to_hugging_face

if __name__ == '__main__':
    sys.exit(convert(to_hugging_face, __doc__, folder=True))
