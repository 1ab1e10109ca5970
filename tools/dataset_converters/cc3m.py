"""Conceptual Captions 3M: Google's TSV (caption, address; no header) as a list for img2dataset.

python tools/dataset_converters/cc3m.py Train_GCC-training.tsv data/cc3m.parquet
"""

import argparse
from collections import Counter
from pathlib import Path

from pair_lists import Pair, add_output, read_fields, write_list


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('tsv', type=Path, help='Train_GCC-training.tsv, as downloaded')
    add_output(parser)
    args = parser.parse_args()
    left_out: Counter[str] = Counter()
    rows = read_fields(args.tsv, 2, left_out)
    write_list((Pair(url, caption) for caption, url in rows), left_out, args.out, (), [args.tsv])


if __name__ == '__main__':
    main()
