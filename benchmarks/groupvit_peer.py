"""The peer of the benchmarks: transformers' GroupViT in the size of one of our configs."""

from types import ModuleType

from mmengine.config import ConfigDict

PEER = 'GroupViT of transformers'


def load_peer() -> ModuleType | None:
    """Module of transformers' GroupViT, if it is installed."""
    try:
        from transformers.models.groupvit import modeling_groupvit
    except ImportError:
        return None
    return modeling_groupvit


def peer_config(model: ConfigDict) -> object:
    """transformers' config of the same size as a PGSeg's.

    Raises:
        ValueError: If its stages differ in width or heads, which GroupViT's do not.
    """
    from transformers import GroupViTConfig

    backbone, text, head = model.backbone, model.text_encoder, model.decode_head
    if not isinstance(backbone.embed_dims, int) or not isinstance(backbone.num_heads, int):
        raise ValueError('the stages of the config differ in width or heads')
    return GroupViTConfig(
        projection_dim=head.channels,
        projection_intermediate_dim=head.hidden_channels,
        vision_config={
            'hidden_size': backbone.embed_dims,
            'intermediate_size': 4 * backbone.embed_dims,
            'num_hidden_layers': sum(backbone.depths),
            'depths': list(backbone.depths),
            'num_group_tokens': list(backbone.num_group_tokens),
            'num_output_groups': [*backbone.num_output_groups, 0],
            'num_attention_heads': backbone.num_heads,
            'image_size': backbone.img_size,
            'patch_size': backbone.patch_size,
        },
        text_config={
            'hidden_size': text.embed_dims,
            'intermediate_size': 4 * text.embed_dims,
            'num_hidden_layers': text.num_layers,
        },
    )
