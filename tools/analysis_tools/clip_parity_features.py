"""Dense features of training-free methods on CLIP, computed again for the parity check."""

import json
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import parity_rules
from pgseg_mm.models import CLIPDenseViT, ProxyCLIPViT
from pgseg_mm.serialization.loading import CheckpointError

TOWER = {
    'width',
    'layers',
    'heads',
    'patch_size',
    'image_size',
    'output_dim',
    'act',
    'weight_seed',
    'cell',
}
"""Entries of a file's meta that tell a tower, and the coarseness of images."""
SETTINGS = TOWER | {'image_seed', 'sizes'}
OF_OTHERS = {
    'external_seed',
    'external_channels',
    'repositories',
    'largest_difference_between_repositories',
}
"""Entries of a file's meta that not all keys need, or that play no part here."""
FEATURES: dict[str, dict[str, Any]] = {
    'clip': {'attention': 'clip'},
    'clip_tcl': {'attention': 'clip', 'pos_embed': 'size'},
    'clip_attn_only': {'attention': 'clip', 'residual': False},
    'maskclip_residual': {'attention': 'maskclip'},
    'maskclip_tcl': {'attention': 'maskclip', 'pos_embed': 'size'},
    'maskclip_attn_only': {'attention': 'maskclip', 'residual': False},
    'sclip': {'attention': 'sclip'},
    'sclip_attn_only': {'attention': 'sclip', 'residual': False},
    'clearclip': {'attention': 'clearclip'},
    'clearclip_residual': {'attention': 'clearclip', 'residual': True},
    'naclip': {'attention': 'naclip'},
    'naclip_std2': {'attention': 'naclip', 'gaussian_std': 2.0},
    'naclip_vanilla_arch': {'attention': 'naclip', 'residual': True},
    'naclip_kk': {'attention': 'kk'},
    'naclip_kk_vanilla_arch': {'attention': 'kk', 'residual': True},
    'naclip_nonly_first': {'attention': 'gaussian'},
}
"""Arguments of the backbone by the name of a key; ``pos_embed='offset'`` where not said."""


FINENESS = {'proxyclip_same': 1, 'proxyclip_fine': 2}
"""Rows of the other backbone's grid for each of CLIP's, by the name of a key."""


def external_features(seed: int, shape: tuple[int, int, int, int]) -> np.ndarray:
    """(B, C, h, w), as of another backbone: a shared vector, blocks of two by two, and noise."""
    rng = np.random.RandomState(seed)
    batch, channels, height, width = shape
    shared = rng.standard_normal((batch, channels, 1, 1))
    coarse = rng.standard_normal((batch, channels, -(-height // 2), -(-width // 2)))
    blocks = coarse.repeat(2, 2).repeat(2, 3)[:, :, :height, :width]
    return 0.5 * shared + blocks + 0.5 * rng.standard_normal(shape)


class GivenFeatures(nn.Module):
    """A backbone that gives one map whatever it is shown."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer('features', features)

    def forward(self, images: Tensor) -> Tensor:
        return self.features


def model_of(
    meta: dict[str, Any], arrays: dict[str, np.ndarray], device: str, dtype: torch.dtype
) -> 'ClipTower | None':
    """What computes the values of a file; ``None`` for a file of another kind."""
    of_features = {'weight_seed', 'patch_size', 'sizes'} <= meta.keys()
    return ClipTower(meta, device, dtype) if of_features else None


class ClipTower:
    """Our backbones with the weights that a file's meta names, and what they compute for each key.

    Args:
        meta: The file's meta.
        device: Where to compute.
        dtype: What to compute in, ``torch.float64`` or ``torch.float32``.

    Raises:
        CheckpointError: If something in ``meta`` is missing or not understood.
    """

    def __init__(self, meta: dict[str, Any], device: str, dtype: torch.dtype) -> None:
        check_meta(meta, SETTINGS, OF_OTHERS)
        self.meta = meta
        self.place = {'device': torch.device(device), 'dtype': dtype}
        self._models: dict[str, CLIPDenseViT] = {}

    def compute(self, key: str) -> Tensor | None:
        """What the file should hold under ``key``; ``None`` if the key is unknown."""
        match = re.fullmatch(r'(\d+x\d+)/(\w+)', key)
        if match is None or match[1] not in self.meta['sizes']:
            return None
        images = self._images(match[1])
        name = match[2]
        grid = tuple(length // self.meta['patch_size'] for length in images.shape[2:])
        if name in ('pos_embed_offset', 'pos_embed_size'):
            model = self._model('clip', pos_embed=name.rpartition('_')[2])
            self._trained_at(grid, model)
            return model.position_embedding(grid)[0]
        if name in ('last_block_input', 'clip_cls'):
            return self._tokens(images, grid, all_blocks=name == 'clip_cls')
        if name in FINENESS and images.shape[2] == images.shape[3]:
            model = self._proxy_model(grid, FINENESS[name])
        elif name in FEATURES:
            model = self._model(**FEATURES[name])
        else:
            return None
        self._trained_at(grid, model)
        # the reference fails for several images
        (features,) = model(images[:1] if name == 'naclip_nonly_first' else images)
        return features.permute(0, 2, 3, 1)

    def _images(self, size: str) -> Tensor:
        shape = (2, 3, *self.meta['sizes'][size])
        image = parity_rules.image(self.meta['image_seed'], shape, self.meta['cell'])
        return torch.from_numpy(image).to(**self.place)

    def _tokens(self, images: Tensor, grid: tuple[int, ...], all_blocks: bool) -> Tensor:
        """What enters the last block, or the embedding of the image."""
        model = self._model('clip')
        self._trained_at(grid, model)
        x, _ = model.embed_patches(images)
        for block in model.blocks if all_blocks else model.blocks[:-1]:
            x = block(x)
        return model.tower.ln_post(x[:, 0]) @ model.tower.proj if all_blocks else x

    def _trained_at(self, grid: tuple[int, ...], model: CLIPDenseViT) -> None:
        """Let the position embedding count as one of this grid, where the references do.

        All that resize with an offset compare the number of patches alone, and take the embedding
        as it is for a grid of another shape with as many. This project resizes it.
        """
        side = self.meta['image_size'] // self.meta['patch_size']
        as_many = grid[0] * grid[1] == side * side
        oversight = as_many and model.pos_embed_offset > 0
        model.tower.grid_size = tuple(grid) if oversight else (side, side)

    def _model(self, attention: str, **kwargs: Any) -> CLIPDenseViT:
        settings = {'attention': attention, 'pos_embed': 'offset', **kwargs}
        if repr(settings) not in self._models:
            with model_folder(self.meta) as name:
                model = CLIPDenseViT(name, **settings).double()
            load_weights(model, self.meta['weight_seed'])
            self._models[repr(settings)] = model.to(**self.place).eval()
        return self._models[repr(settings)]

    def _proxy_model(self, grid: tuple[int, ...], fineness: int) -> ProxyCLIPViT:
        size = (fineness * grid[0], fineness * grid[1])
        shape = (2, self.meta['external_channels'], *size)
        features = torch.from_numpy(external_features(self.meta['external_seed'], shape))
        proxy = {'type': GivenFeatures, 'features': features}
        with model_folder(self.meta) as name:
            model = ProxyCLIPViT(proxy, name, shared_mean=True, pos_embed='offset').double()
        load_weights(model, self.meta['weight_seed'])
        return model.to(**self.place).eval()


@contextmanager
def model_folder(meta: dict[str, Any]) -> Iterator[str]:
    """open_clip's name of a model of the sizes that a file's meta tells, as long as it is needed.

    Raises:
        CheckpointError: If the activation is not understood.
    """
    if meta['act'] not in ('quick_gelu', 'gelu'):
        raise CheckpointError(f'meta act must be quick_gelu or gelu, got {meta["act"]!r}')
    vision = {key: meta[key] for key in ('width', 'layers', 'patch_size', 'image_size')}
    config = {
        'embed_dim': meta['output_dim'],
        'quick_gelu': meta['act'] == 'quick_gelu',
        'vision_cfg': {**vision, 'head_width': meta['width'] // meta['heads']},
        'text_cfg': {},
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'open_clip_config.json'
        path.write_text(json.dumps({'model_cfg': config}))
        yield f'local-dir:{folder}'


def load_weights(model: CLIPDenseViT, seed: int) -> None:
    """Give the tower of a backbone the weights of a seed."""
    weights = {
        name: torch.from_numpy(parity_rules.clip_weight(f'visual.{name}', tuple(entry.shape), seed))
        for name, entry in model.tower.state_dict().items()
    }
    model.tower.load_state_dict(weights)


def check_meta(meta: dict[str, Any], settings: Set[str], others: Set[str] = frozenset()) -> None:
    """Refuse a file whose meta has other entries than these.

    Raises:
        CheckpointError: If an entry is not among ``settings`` and ``others``, or a setting lacks.
    """
    unknown = meta.keys() - settings - others
    missing = settings - meta.keys()
    if unknown or missing:
        raise CheckpointError(
            f'meta has keys that are not understood: {sorted(unknown)}, and lacks: '
            f'{sorted(missing)}'
        )
