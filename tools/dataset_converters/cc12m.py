"""Conceptual 12M: Google's TSV (address, caption; no header) as a list for img2dataset.

python tools/dataset_converters/cc12m.py cc12m.tsv data/cc12m.parquet
"""

import argparse
from collections import Counter
from pathlib import Path

from pair_lists import Pair, add_output, read_fields, write_list


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('tsv', type=Path, help='cc12m.tsv, as downloaded')
    add_output(parser)
    args = parser.parse_args()
    left_out: Counter[str] = Counter()
    rows = read_fields(args.tsv, 2, left_out)
    write_list((Pair(url, caption) for url, caption in rows), left_out, args.out, (), [args.tsv])


if __name__ == '__main__':
    main()
