"""An inferencer of the tiny model."""

import numpy as np
from mmengine.config import Config
from PIL import Image

from model_zoo import tiny_model_cfg
from odd_images import picture

WORDS = ['dog', 'red car', 'grass']
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 32), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]


def config(**model) -> Config:
    loader = dict(dataset=dict(type='BaseSegDataset', pipeline=PIPELINE))
    thresholds = dict(voc21=0.2)
    return Config(
        dict(
            model=tiny_model_cfg(**model), test_dataloader=loader, background_thresholds=thresholds
        )
    )


def frame(seed: int = 0, size=(40, 60)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-40, 40, (*size, 3))
    return np.clip(np.asarray(picture(*size)) + noise, 0, 255).astype(np.uint8)


def write_images(folder, *names):
    for seed, name in enumerate(names):
        Image.fromarray(frame(seed)[..., ::-1]).save(folder / name)
    return folder
