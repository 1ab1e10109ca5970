"""Convert Hugging Face's GroupViT, a folder or a file, into a checkpoint of this project."""

import sys

from pgseg_mm.checkpoints.cli import convert, from_hugging_face

if __name__ == '__main__':
    sys.exit(convert(from_hugging_face, __doc__))
