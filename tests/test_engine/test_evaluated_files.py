"""Files that a data set lists are looked for before the first step."""

from types import SimpleNamespace

import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from PIL import Image

from pgseg_mm.engine.preflight import PreflightError, check_evaluated

LABELS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


@pytest.fixture(params=[LABELS, LABELS[:1]], ids=['labels', 'images alone'])
def loader(tmp_path, request):
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
        for name in 'abc':
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / f'{name}.png')
    (tmp_path / 'list.txt').write_text('a\nb\nc\n')
    dataset = BaseSegDataset(
        ann_file='list.txt',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=dict(classes=['thing', 'stuff']),
        pipeline=request.param,
    )
    return SimpleNamespace(dataset=Repeated(dataset))


class Repeated:
    """A wrapper, as mmengine's RepeatDataset is one."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)


def test_a_missing_file_is_told_before_the_first_step(tmp_path, loader):
    for split in ('val', 'test'):
        check_evaluated(loader, split)
    (tmp_path / 'labels' / 'c.png').unlink()
    check_evaluated(loader, 'test')  # may do without labels
    if len(loader.dataset.dataset.pipeline.transforms) == 1:
        check_evaluated(loader, 'val')
    else:
        with pytest.raises(PreflightError, match=r'1 of the 6 files that the val set .*c\.png'):
            check_evaluated(loader, 'val')
    (tmp_path / 'images' / 'b.png').unlink()
    with pytest.raises(PreflightError, match=r'1 of the 3 files that the test set .*b\.png'):
        check_evaluated(loader, 'test')
