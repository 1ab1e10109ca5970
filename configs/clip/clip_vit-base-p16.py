# The patches of CLIP as they are (arXiv 2103.00020)
_base_ = [
    '../_base_/models/clip_vit-base-p16.py',
    '../_base_/benchmarks/voc20.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(pos_embed='offset'), class_embed_cache=_base_.class_embed_cache)
