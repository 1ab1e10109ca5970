"""Lists of pairs."""

import json

import pyarrow
import pyarrow.parquet

from pgseg_mm.datasets import ImageTextDataset


def write(root, name, text):
    (root / name).write_text(text, encoding='utf-8')
    return name


LOAD = [dict(type='mmcv.LoadImageFromFile')]
ROWS = [
    dict(image='cat.png', caption='a cat'),
    dict(image='dog.png', caption='dogs, "two" of them'),
]
FILES = {
    'pairs.json': json.dumps(ROWS),
    'pairs.jsonl': '\n'.join(json.dumps(row) for row in ROWS) + '\n\n',
    'pairs.csv': 'image,caption\ncat.png,a cat\ndog.png,"dogs, ""two"" of them"\n',
    'pairs.tsv': 'image\tcaption\ncat.png\ta cat\ndog.png\tdogs, "two" of them\n',
}


def make(root, ann_file, **kwargs):
    prefix = dict(img_path='images')
    return ImageTextDataset(ann_file, data_root=str(root), data_prefix=prefix, **kwargs)


def write_parquet(root, name='pairs.parquet', **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), root / name)
    return name


LOAD_SAFELY = [dict(type='DecodeImage')]
