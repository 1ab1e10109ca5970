"""Names of entries in the releases' and Hugging Face's state dicts, from this project's names."""

import re
from collections.abc import Iterable

_RELEASE = (
    (r'^decode_head\.loss_contrastive\.logit_scale$', 'logit_scale'),
    (r'^decode_head\.loss_npr\.logit_scale$', 'img_encoder.logit_scale'),
    (r'^decode_head\.text_prototypes\.prototypes\.mu$', 'text_encoder.Atten.mu'),
    (r'^decode_head\.image_projector', 'img_projector'),
    (r'^decode_head\.text_projector', 'text_projector'),
    (r'^backbone\.patch_embed', 'img_encoder.patch_embed.proj'),
    (r'^backbone\.patch_norm', 'img_encoder.patch_embed.norm'),
    (r'^backbone\.stages', 'img_encoder.layers'),
    (r'^backbone', 'img_encoder'),
    (r'\.grouping\.', '.downsample.'),
    (r'\.prototypes\.mu$', '.downsample_spatial.mu'),
    (r'\.reconstruction\.', '.downsample_spatial.mapping_x.'),
    (r'((?:img|text)_projector|mapping_x)\.fc1', r'\1.linear_hidden.0'),
    (r'((?:img|text)_projector|mapping_x)\.norm', r'\1.linear_hidden.1'),
    (r'((?:img|text)_projector|mapping_x)\.fc2', r'\1.linear_out'),
)
_RELEASE_TEXT = (
    (r'\.blocks\.', '.transformer.resblocks.'),
    (r'attn\.qkv\.', 'attn.in_proj_'),
    (r'attn\.proj', 'attn.out_proj'),
    (r'norm([12])\.', r'ln_\1.'),
    (r'mlp\.fc1', 'mlp.c_fc'),
    (r'mlp\.fc2', 'mlp.c_proj'),
    (r'^text_encoder\.norm', 'text_encoder.ln_final'),
)
_NESTED_PROJECTOR = (
    (r'group_projector\.([01])\.', r'group_projector.0.\1.'),
    (r'group_projector\.([23])\.', lambda m: f'group_projector.{int(m[1]) - 1}.'),
)
_HUGGING_FACE = (
    (r'^decode_head\.loss_contrastive\.logit_scale$', 'logit_scale'),
    (r'^decode_head\.image_projector', 'visual_projection'),
    (r'^decode_head\.text_projector', 'text_projection'),
    (r'_projection\.fc1', '_projection.0'),
    (r'_projection\.norm', '_projection.1'),
    (r'_projection\.fc2', '_projection.3'),
    (r'^backbone\.patch_embed', 'vision_model.embeddings.patch_embeddings.projection'),
    (r'^backbone\.patch_norm', 'vision_model.embeddings.layernorm'),
    (r'^backbone\.pos_embed', 'vision_model.embeddings.position_embeddings'),
    (r'^backbone\.norm', 'vision_model.layernorm'),
    (r'^backbone\.stages', 'vision_model.encoder.stages'),
    (r'\.grouping\.', '.downsample.'),
    (r'pre_assign_attn\.attn\.proj', 'pre_assign_attn.attn.out_proj'),
    (r'^text_encoder\.token_embedding', 'text_model.embeddings.token_embedding'),
    (r'^text_encoder\.positional_embedding', 'text_model.embeddings.position_embedding.weight'),
    (r'^text_encoder\.norm', 'text_model.final_layer_norm'),
    (r'^text_encoder\.blocks', 'text_model.encoder.blocks'),
    (r'\.blocks\.(\d+)\.norm', r'.blocks.\1.layer_norm'),
    (r'\.blocks\.(\d+)\.attn\.proj', r'.blocks.\1.self_attn.out_proj'),
    (r'\.blocks\.(\d+)\.attn', r'.blocks.\1.self_attn'),
    (r'\.blocks\.', '.layers.'),
)


def _rename(name: str, rules: Iterable[tuple]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def release_name(name: str) -> str:
    """Name that PGSeg's and GroupViT's releases give to an entry of our state dict."""
    return _rename(name, _RELEASE_TEXT if name.startswith('text_encoder') else _RELEASE)


def release_names(names: Iterable[str]) -> dict[str, str]:
    """Names in the releases for all entries of a model.

    Where the width changes between two stages, the release's projector of group tokens is nested.

    Args:
        names: All names of our state dict.

    Returns:
        The release's name for each of ours.
    """
    names = list(names)
    nested = {
        name.partition('group_projector.')[0] for name in names if 'group_projector.3.' in name
    }
    return {
        name: _rename(release_name(name), _NESTED_PROJECTOR)
        if 'group_projector.' in name and name.partition('group_projector.')[0] in nested
        else release_name(name)
        for name in names
    }


def hugging_face_names(name: str) -> tuple[str, ...]:
    """Names in ``transformers.GroupViTModel`` for an entry of our state dict.

    Our fused query, key and value projection is three entries there, to be joined in this order.
    """
    name = _rename(name, _HUGGING_FACE)
    if '.qkv.' in name:
        return tuple(name.replace('.qkv.', f'.{part}_proj.') for part in 'qkv')
    return (name,)
