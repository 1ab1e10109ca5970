_base_ = [
    '../../_base_/models/pgseg_vit-small-p16.py',
    '../../_base_/benchmarks/imagenet_s300.py',
    '../../_base_/default_runtime.py',
]
model = dict(
    class_embed_cache=_base_.class_embed_cache,
    decode_head=dict(background_threshold=_base_.background_thresholds.imagenet_s300),
)
