"""mmseg's own functions on the config of the published model, made small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS
from PIL import Image

from odd_images import picture
from pgseg_mm.apis import PGSegInferencer

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/pgseg/pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
SMALL = {
    'model.backbone.embed_dims': 24,
    'model.backbone.num_heads': 3,
    'model.backbone.depths': (1, 1, 1),
    'model.backbone.prototypes.hidden_channels': 16,
    'model.text_encoder.embed_dims': 64,
    'model.text_encoder.num_layers': 1,
    'model.decode_head.in_channels': 24,
    'model.decode_head.text_channels': 64,
    'model.decode_head.hidden_channels': 32,
    'model.decode_head.text_prototypes.num_prototypes': 4,
}


@pytest.fixture
def checkpoint(tmp_path):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(SMALL)
    torch.manual_seed(0)
    meta = dict(dataset_meta=dict(classes=('background', 'dog', 'sky'), palette=[[0] * 3] * 3))
    path = tmp_path / 'small.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=meta), path)
    return str(path)


def test_init_model_and_inference_model(checkpoint, tmp_path):
    model = init_model(str(CONFIG), checkpoint, device='cpu', cfg_options=SMALL)
    picture(60, 90).save(tmp_path / 'a.png')
    image = np.asarray(Image.open(tmp_path / 'a.png'))[..., ::-1]
    by_path = inference_model(model, str(tmp_path / 'a.png')).pred_sem_seg.data
    assert by_path.shape == (1, 60, 90) and model.num_classes == 3
    model.set_vocabulary(['background', 'grass', 'sea', 'road'])
    by_array = inference_model(model, [image, image[:30]])
    assert [sample.pred_sem_seg.data.shape for sample in by_array] == [(1, 60, 90), (1, 30, 90)]
    assert model.num_classes == 4
    again = inference_model(model, str(tmp_path / 'a.png')).pred_sem_seg.data  # a path again
    assert (again == by_array[0].pred_sem_seg.data).all()
    # the inferencer finds the same, by that model and by the files
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(SMALL)
    for inferencer in (PGSegInferencer(model), PGSegInferencer(cfg, checkpoint, device='cpu')):
        found = inferencer(image, ['grass', 'sea', 'road'], background=True)[0].mask
        np.testing.assert_array_equal(found, by_array[0].pred_sem_seg.data[0].numpy())


@pytest.mark.parametrize('name', ['voc21', 'imagenet_s919'])
def test_configs_of_benchmarks(tmp_path, name):
    """Also those whose label maps mmseg cannot load."""
    path = ROOT / f'configs/pgseg/zero_shot/pgseg_vit-small-p16_zero-shot_{name}.py'
    options = {key: value for key, value in SMALL.items() if 'text_prototypes' not in key}
    model = init_model(str(path), device='cpu', cfg_options=options)
    model.set_vocabulary(['background', 'grass', 'sea'])
    image = np.asarray(picture(60, 90))
    mask = inference_model(model, image).pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(PGSegInferencer(model)(image)[0].mask, mask)
