"""Validation during training names damaged files."""

from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

from pgseg_mm.datasets import SeededDataset
from pgseg_mm.engine.hooks import CheckedLoadingHook
from pgseg_mm.files.reading import DamagedFileError


@pytest.fixture
def dataset(tmp_path):
    for kind, shape in (('images', (8, 8, 3)), ('labels', (8, 8))):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / kind / 'a.png')
    return BaseSegDataset(
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0], [9, 9, 9]]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )


@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: ConcatDataset([d])])
@pytest.mark.parametrize('folder', ['images', 'labels'])
def test_validation_names_a_damaged_file(dataset, wrap, folder):
    wrapped = wrap(dataset)
    hook = CheckedLoadingHook()
    for _ in range(2):  # each validation
        hook.before_val(SimpleNamespace(val_dataloader=SimpleNamespace(dataset=wrapped)))
    assert wrapped[0]['data_samples'].gt_sem_seg.data.shape == (1, 8, 8)
    (path,) = [p for p in dataset.get_data_info(0).values() if f'/{folder}/' in str(p)]
    with open(path, 'wb'):
        pass

    with pytest.raises(DamagedFileError, match=f'/{folder}/a.png of the data set Base.*empty'):
        wrapped[0]


def test_training_on_masks_names_a_damaged_file_and_reads_colours(dataset):
    path = dataset.get_data_info(0)['seg_map_path']
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(path)

    sample = SeededDataset(dataset)[0]
    assert sample['data_samples'].gt_sem_seg.data.unique().tolist() == [1]
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(path)
    with pytest.raises(DamagedFileError, match=r'its colour \(7, 7, 7\) is not in the palette'):
        SeededDataset(dataset)[0]
