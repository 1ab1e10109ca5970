# Unpacked images instead of shards: data/cc3m/captions_train.jsonl and data/cc12m/...
_base_ = [
    '../_base_/models/pgseg_vit-small-p16.py',
    '../_base_/datasets/cc3m_cc12m_224x224.py',
    '../_base_/benchmarks/voc21.py',
    '../_base_/schedules/pgseg_30e_from-groupvit.py',
    '../_base_/epoch_runtime.py',
]
model = dict(
    decode_head=dict(
        background_threshold=_base_.background_thresholds.voc21,
        text_prototypes=dict(type='TextPrototypes', loss_weight=0.01),
    ),
)
