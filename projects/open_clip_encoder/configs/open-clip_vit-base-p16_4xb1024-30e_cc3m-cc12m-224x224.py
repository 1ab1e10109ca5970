# The grouping is learned from captions, both towers stay as they are; trainable_layers=2 in the
# backbone would train the last two blocks of the image tower, too
_base_ = [
    './_base_/open-clip_vit-base-p16.py',
    '../../../configs/_base_/datasets/image_text_shards_224x224.py',
    '../../../configs/_base_/benchmarks/voc20.py',
    '../../../configs/_base_/schedules/pgseg_30e_from-groupvit.py',
    '../../../configs/_base_/epoch_runtime.py',
]
model = dict(
    backbone=dict(
        grouping=dict(
            _delete_=True,
            type='LearnedGrouping',
            num_groups=8,
            num_group_tokens=64,
            depth=2,
            num_heads=12,
            prototypes=dict(type='NonLearnablePrototypes', momentum=0.9),
        ),
    ),
    decode_head=dict(loss_npr=dict(type='NPRLoss', loss_weight=0.1)),
)
