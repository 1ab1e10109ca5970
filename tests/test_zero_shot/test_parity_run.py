"""Class maps of the authors' release, by tools/test.py from image files to prediction files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import TRANSFORMS
from PIL import Image

import check_parity
from benchmark_zoo import ROOT, run_test_tool
from pgseg_mm.models.inference.class_embedder import ClassEmbedder

with np.load(Path(__file__).parents[1] / 'data' / 'parity' / 'pgseg_tiny.npz') as file:
    STORED = {name: file[name] for name in file.files}
META = json.loads(str(STORED.pop('meta')))
NAMES = [f'thing {number}' for number in range(META['num_classes'])]
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


@TRANSFORMS.register_module()
class LoadArray:
    """Load an image that is stored as an array (H, W, 3), BGR of any type."""

    def __call__(self, results: dict) -> dict:
        image = np.load(results['img_path'])
        return dict(results, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


@pytest.fixture(scope='module')
def release() -> check_parity.ReleaseModel:
    return check_parity.ReleaseModel(META, STORED['class_embed'])


def write_data(root: Path, images: torch.Tensor) -> None:
    """Images as what normalising makes the parity images of, and label maps of zeros."""
    for index, image in enumerate(images.numpy()):
        pixels = (image.transpose(1, 2, 0) * STD + MEAN)[..., ::-1]
        np.save(root / f'{index}.npy', pixels)
        Image.fromarray(np.zeros(image.shape[1:], np.uint8)).save(root / f'{index}.png')


def write_config(path: Path, release: check_parity.ReleaseModel, background: bool) -> Path:
    """The release's model, and the published protocol but for the images' loading and size."""
    bases = [
        str(ROOT / 'configs' / '_base_' / name)
        for name in ('benchmarks/published_protocol.py', 'default_runtime.py')
    ]
    base = Config.fromfile(bases[0])
    height, width = META['image_shape'][2:]
    steps = base.test_pipeline
    pipeline = [
        dict(type='LoadArray'),
        dict(steps[1], scale=(max(height, width), min(height, width))),
        *map(dict, steps[2:]),
    ]
    model = release.architecture.model_cfg()
    model['data_preprocessor'] = dict(
        type='PGSegDataPreProcessor', mean=MEAN.tolist(), std=STD.tolist()
    )
    model['decode_head']['background_threshold'] = META['bg_thresh'] if background else None
    model['test_cfg'] = dict(
        mode='slide', crop_size=(META['crop'],) * 2, stride=(META['stride'],) * 2
    )
    cfg = dict(
        _base_=bases,
        model=model,
        val_dataloader=None,
        val_evaluator=None,
        val_cfg=None,
        test_dataloader=dict(
            num_workers=0,
            persistent_workers=False,
            dataset=dict(
                type='BaseSegDataset',
                data_root=str(path.parent),
                img_suffix='.npy',
                metainfo=dict(classes=['background'] * background + NAMES),
                pipeline=pipeline,
            ),
        ),
        custom_hooks=[dict(type='VocabularyHook')],
    )
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.items()))
    return path


@pytest.mark.parametrize('background', [False, True])
def test_class_maps_of_the_release(release, background, tmp_path, monkeypatch):
    def embed_words(_: ClassEmbedder, words: list[str]) -> torch.Tensor:
        assert list(words) == NAMES
        return torch.from_numpy(STORED['class_embed']).double()

    monkeypatch.setattr(ClassEmbedder, 'embed_words', embed_words)
    write_data(tmp_path, release.images)
    config = write_config(tmp_path / 'parity.py', release, background)
    checkpoint = tmp_path / 'release.pth'
    torch.save({'state_dict': release.model.state_dict(), 'meta': {}}, checkpoint)

    run_test_tool(config, checkpoint, tmp_path / 'run', '--out', tmp_path / 'out', double=True)

    stored = STORED[f'seg/slide_bg{int(background)}'][0]
    with Image.open(tmp_path / 'out' / '0.png') as image:
        assert np.array_equal(np.array(image), stored)
    assert len(np.unique(stored)) > 2
    assert len(list((tmp_path / 'out').iterdir())) == len(release.images)
