_base_ = [
    '../../_base_/models/pgseg_vit-small-p16.py',
    '../../_base_/benchmarks/cityscapes.py',
    '../../_base_/default_runtime.py',
]
model = dict(class_embed_cache=_base_.class_embed_cache)
