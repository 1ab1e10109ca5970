"""Small random GroupViTs, as ``transformers`` makes and saves them."""

import json
from pathlib import Path

import torch
from mmengine.config import Config
from safetensors.torch import save_file
from torch import Tensor
from transformers import GroupViTConfig, GroupViTModel

ROOT = Path(__file__).parents[2]
FORMATS = ('safetensors', 'sharded safetensors', 'bin', 'sharded bin', 'float16')
WIDTH, HEADS, HIDDEN = 64, 4, 48
"""Another number of heads than the shapes suggest: it must come from config.json."""
VISION = {
    'image_size': 224,
    'hidden_size': WIDTH,
    'intermediate_size': 2 * WIDTH,
    'depths': [1, 1, 1],
    'num_hidden_layers': 3,
    'num_attention_heads': HEADS,
    'num_group_tokens': [12, 6, 0],
    'num_output_groups': [12, 6, 6],
    'assign_mlp_ratio': [0.5, 2],
}
TEXT = {
    'hidden_size': 32,
    'intermediate_size': 128,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
}
SMALL = {
    'backbone.embed_dims': WIDTH,
    'backbone.mlp_ratio': 2,
    'backbone.depths': (1, 1, 1),
    'backbone.num_heads': HEADS,
    'backbone.num_group_tokens': (12, 6, 0),
    'backbone.num_output_groups': (12, 6),
    'text_encoder.embed_dims': 32,
    'text_encoder.num_heads': 2,
    'text_encoder.num_layers': 1,
    'decode_head.in_channels': WIDTH,
    'decode_head.channels': 20,
    'decode_head.text_channels': 32,
    'decode_head.hidden_channels': HIDDEN,
}
"""Settings that make the published GroupViT of our configs this small."""


def small_groupvit(seed: int = 0) -> GroupViTModel:
    """A model whose groups depend on the image."""
    torch.manual_seed(seed)
    config = GroupViTConfig(
        vision_config=VISION,
        text_config=TEXT,
        projection_dim=20,
        projection_intermediate_dim=HIDDEN,
    )
    model = GroupViTModel(config)
    with torch.no_grad():  # initialised as published, hardly anything depends on the input
        for name, value in model.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and 'embeddings' not in name:
                value.add_(torch.randn_like(value) * 0.3)
    return model.eval()


def small_config() -> Config:
    """Our config that fits :func:`small_groupvit`."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/groupvit_vit-small-p16.py')
    cfg.merge_from_dict({f'model.{key}': value for key, value in SMALL.items()})
    cfg.merge_from_dict({'default_scope': 'mmseg'})
    return cfg


def write_folder(model: GroupViTModel, folder: Path, kind: str) -> Path:
    """Write a model as a folder of ``transformers``, in one of ``FORMATS``."""
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(model.config.to_json_string())
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    if kind == 'float16':
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    ending = 'bin' if kind.endswith('bin') else 'safetensors'
    stem = 'pytorch_model' if ending == 'bin' else 'model'
    if ending == 'bin':  # of an older transformers
        state['text_model.embeddings.position_ids'] = torch.arange(77)[None]
    if not kind.startswith('sharded'):
        _write(state, folder / f'{stem}.{ending}')
        return folder
    names = [f'{stem}-0000{i}-of-00002.{ending}' for i in (1, 2)]
    parts = [dict(list(state.items())[i::2]) for i in range(2)]
    for name, part in zip(names, parts, strict=True):
        _write(part, folder / name)
    where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = {'metadata': {'total_size': 0}, 'weight_map': where}
    (folder / f'{stem}.{ending}.index.json').write_text(json.dumps(index))
    return folder


def _write(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == '.bin':
        torch.save(state, path)
    else:
        save_file(state, path, {'format': 'pt'})


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of a folder by the names of its files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
