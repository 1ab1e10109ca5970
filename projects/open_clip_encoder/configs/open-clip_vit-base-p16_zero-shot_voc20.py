_base_ = [
    './_base_/open-clip_vit-base-p16.py',
    '../../../configs/_base_/benchmarks/voc20.py',
    '../../../configs/_base_/default_runtime.py',
]
model = dict(class_embed_cache=_base_.class_embed_cache)
