"""Conversion from and to Hugging Face's GroupViT, without importing it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from pgseg_mm import limits
from pgseg_mm.messages import quoted
from pgseg_mm.serialization.loading import (
    Checkpoint,
    CheckpointError,
    check_state_dict,
    load_checkpoint,
    load_file_safely,
    write_atomically,
)

from .architecture import Architecture, infer_architecture, model_shapes, shapes_of
from .conversion import Conversion, join, link_all, split
from .names import hugging_face_names
from .release import check_origin, fold_assign_scale, folded_note

CONFIG_NAME = 'config.json'
CONFIG_TEXT_NAME = 'config.py'
WEIGHTS_NAME = 'model.safetensors'
OWN_TYPE, THEIR_TYPE = 'pgseg', 'groupvit'
"""``model_type`` in ``config.json`` of folders in this project's format, and of transformers'."""
_WHOLE = (WEIGHTS_NAME, 'pytorch_model.bin')
_INDEX = '.index.json'
WEIGHTS = tuple(f'{name}{kind}' for name in _WHOLE for kind in ('', _INDEX))
"""Files of weights and indices of sharded ones; the first that is there is read."""
# What shapes do not tell and our model has in one way only; absent settings are these, too.
_FIXED: dict[str, dict[str, Any]] = {
    'vision_config': {'hidden_act': 'gelu', 'layer_norm_eps': 1e-5, 'assign_eps': 1.0},
    'text_config': {'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5},
}


def load_hugging_face(path: str | Path, trust: bool = False) -> tuple[Checkpoint, dict[str, Any]]:
    """Read a folder of ``save_pretrained``, or a file of weights alone.

    Returns:
        The state dict, and the folder's config, empty if there is none.

    Raises:
        FileNotFoundError: If there are no weights.
        CheckpointError: If they cannot be read, or if the config is that of another model.
    """
    path = Path(path)
    if not path.is_dir():
        return load_checkpoint(path, trust), {}
    config_path = path / CONFIG_NAME
    config = read_object(config_path) if config_path.is_file() else {}
    if config.get('model_type', THEIR_TYPE) not in (THEIR_TYPE, OWN_TYPE):
        raise CheckpointError(
            f'{config_path} is that of a model of type {quoted(config["model_type"])}, expected '
            f'{THEIR_TYPE} or {OWN_TYPE}'
        )
    weights = find_weights(path)
    if weights is None:
        raise FileNotFoundError(f'{path} has neither {" nor ".join(_WHOLE)}, nor an index of one')
    if not weights.name.endswith(_INDEX):
        return load_checkpoint(weights, trust), config
    state_dict: dict[str, Tensor] = {}
    foreign: set[str] = set()
    for name in shard_names(weights):
        loaded = load_file_safely(path / name, trust)
        state_dict |= check_state_dict(loaded.content, name)
        foreign.update(loaded.foreign)
    return Checkpoint(state_dict, {}, tuple(sorted(foreign))), config


def find_weights(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of sharded ones; the first of ``WEIGHTS``."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def is_own_format(folder: Path) -> bool:
    """Whether a folder is in this project's format, where a config lies beside the weights.

    Raises:
        CheckpointError: If its ``config.json`` is no JSON.
    """
    path = folder / CONFIG_NAME
    return path.is_file() and read_object(path).get('model_type') == OWN_TYPE


def shard_names(weights: Path) -> list[str]:
    """Names of the files that make up weights, in the folder of :func:`find_weights`' result.

    Raises:
        CheckpointError: If an index is none, or names files outside its folder.
    """
    if not weights.name.endswith(_INDEX):
        return [weights.name]
    names = read_object(weights).get('weight_map')
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f'{weights} has no weight_map from entries to files')
    for name in set(names.values()):
        if Path(name).name != name:
            raise CheckpointError(f'{weights} names a file outside its folder: {name}')
    return sorted(set(names.values()))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that another program wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is too large or no JSON object.
    """
    try:
        if path.stat().st_size > limits.STATE_FILE_BYTES:
            raise ValueError(f'it has more than {limits.STATE_FILE_BYTES} bytes')
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} is no JSON file: {error}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} must hold a JSON object')
    return content


def hugging_face_to_mm(
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    architecture: Architecture | None = None,
) -> Conversion:
    """Convert the state dict of ``transformers.GroupViTModel``.

    Args:
        state_dict: Entries by Hugging Face's names.
        config: Content of ``config.json``, for what shapes do not tell.
        model: Our model that it must fit; by default it is told from the shapes.
        architecture: The architecture, if it is known.

    Raises:
        CheckpointError: If it is the state dict of something else, or if its config asks for what
            our model does not do.
    """
    check_origin(state_dict, 'hugging_face')
    parts = {part: _part(config or {}, part) for part in _FIXED}
    if architecture is None:
        architecture = _infer(state_dict, parts['vision_config'], parts['text_config'])
    shapes = model_shapes(architecture) if model is None else shapes_of(model)
    links = link_all(shapes, hugging_face_names, lambda name, shape: shape)
    result, inert, report = join(state_dict, links, lambda name: name.endswith('.position_ids'))
    return Conversion(result, report, architecture, inert)


def _part(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    settings = config.get(part) or {}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f'{part} of the config must be an object, got {settings!r}')
    for key, value in _FIXED[part].items():
        if settings.get(key, value) != value:
            raise CheckpointError(
                f'{part}.{key} is {settings[key]!r}; our GroupViT has {value!r} only'
            )
    return settings


def _infer(state_dict: Mapping[str, Tensor], vision: Mapping, text: Mapping) -> Architecture:
    def shape_of(name: str) -> tuple[int, ...] | None:
        value = state_dict.get(hugging_face_names(name)[0])
        return None if value is None else tuple(value.shape)

    stages = len(infer_architecture(shape_of, img_size=(1, 1)).depths)
    # the defaults of transformers, for a config that names only what differs from them
    known = bool(vision or text)
    heads = vision.get('num_attention_heads', 6 if known else None)
    text_heads = text.get('num_attention_heads', 4 if known else None)
    size = vision.get('image_size')
    return infer_architecture(
        shape_of,
        None if heads is None else [heads] * stages,
        text_heads,
        tuple(size) if isinstance(size, list) and len(size) == 2 else None,
    )


def mm_to_hugging_face(
    state_dict: Mapping[str, Tensor], architecture: Architecture | None = None
) -> Conversion:
    """Convert our state dict into that of ``transformers.GroupViTModel``.

    Args:
        state_dict: Entries by our names.
        architecture: The architecture, if it is known.

    Raises:
        CheckpointError: If it is the state dict of something else, or if Hugging Face's GroupViT
            cannot be of this architecture.
    """
    check_origin(state_dict, 'mm')
    if architecture is None:
        architecture = infer_architecture(
            lambda name: tuple(state_dict[name].shape) if name in state_dict else None
        )
    _check_expressible(architecture)
    links = link_all(model_shapes(architecture), hugging_face_names, lambda name, shape: shape)
    folded = fold_assign_scale(state_dict, architecture)
    result, report = split(folded, links, lambda name: False)
    if architecture.assign_scale != 1:
        report.notes.append(folded_note(architecture))
    return Conversion(result, report, architecture, {})


def _check_expressible(architecture: Architecture) -> None:
    a = architecture
    if a.prototypes:
        raise CheckpointError(
            'this model has prototypes, whose reconstruction is added to the tokens before they '
            "are grouped; Hugging Face's GroupViT cannot compute that. Use mm2pgseg.py"
        )
    if len(set(a.embed_dims)) > 1 or len(set(a.num_heads)) > 1:
        raise CheckpointError(
            "Hugging Face's GroupViT has one width and one number of heads, this model has "
            f'{a.embed_dims} and {a.num_heads}'
        )
    followed = len(a.num_output_groups) - 1
    if a.num_group_tokens[:followed] != a.num_output_groups[:followed]:
        raise CheckpointError(
            "Hugging Face's GroupViT needs as many group tokens as groups in each stage that "
            f'another grouping stage follows; this model has {a.num_group_tokens} and '
            f'{a.num_output_groups}'
        )


def hugging_face_config(architecture: Architecture) -> dict[str, Any]:
    """Content of ``config.json`` for ``transformers.GroupViTModel``."""
    a = architecture
    width, text_width = a.embed_dims[0], a.text_dims
    height, breadth = a.img_size
    return {
        'architectures': ['GroupViTModel'],
        'model_type': THEIR_TYPE,
        'projection_dim': a.output_dims,
        'projection_intermediate_dim': a.hidden_channels,
        'vision_config': {
            'model_type': 'groupvit_vision_model',
            **_FIXED['vision_config'],
            'hidden_size': width,
            'intermediate_size': int(width * a.mlp_ratio),
            'num_hidden_layers': sum(a.depths),
            'depths': list(a.depths),
            'num_group_tokens': list(a.num_group_tokens),
            # one number for each stage; the last stage has no groups and ignores it
            'num_output_groups': [*a.num_output_groups, a.num_output_groups[-1]],
            'num_attention_heads': a.num_heads[0],
            'image_size': height if height == breadth else [height, breadth],
            'patch_size': a.patch_size,
            'num_channels': a.in_channels,
            'assign_mlp_ratio': [0.5, a.mlp_ratio],
        },
        'text_config': {
            'model_type': 'groupvit_text_model',
            **_FIXED['text_config'],
            'vocab_size': a.vocab_size,
            'hidden_size': text_width,
            'intermediate_size': 4 * text_width,
            'num_hidden_layers': a.text_layers,
            'num_attention_heads': a.text_heads,
            'max_position_embeddings': a.context_length,
            # as in CLIP's vocabulary, the last two
            'bos_token_id': a.vocab_size - 2,
            'eos_token_id': a.vocab_size - 1,
        },
    }


def save_hugging_face(folder: str | Path, conversion: Conversion) -> None:
    """Write a folder that ``GroupViTModel.from_pretrained`` loads."""
    folder = Path(folder)
    # safetensors takes no tensors that share memory, or lie in another order
    weights = {name: value.contiguous().clone() for name, value in conversion.state_dict.items()}
    config = json.dumps(hugging_face_config(conversion.architecture), indent=2) + '\n'
    write_atomically(folder / WEIGHTS_NAME, lambda p: save_file(weights, p, {'format': 'pt'}))
    write_atomically(folder / CONFIG_NAME, lambda p: p.write_bytes(config.encode()))
