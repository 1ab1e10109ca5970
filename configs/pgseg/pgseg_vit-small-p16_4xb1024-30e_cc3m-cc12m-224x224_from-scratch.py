# Without GroupViT's weights: GroupViT's rates and augmentation. NPR acts from the first step;
# decode_head.loss_npr.begin delays it (the release begins after 30 epochs of contrast alone)
_base_ = [
    '../_base_/models/pgseg_vit-small-p16.py',
    '../_base_/datasets/image_text_shards_224x224.py',
    '../_base_/datasets/groupvit_augmentation.py',
    '../_base_/benchmarks/voc21.py',
    '../_base_/schedules/groupvit_30e.py',
    '../_base_/epoch_runtime.py',
]
model = dict(
    decode_head=dict(
        background_threshold=_base_.background_thresholds.voc21,
        text_prototypes=dict(type='TextPrototypes', loss_weight=0.01),
    ),
)
train_pipeline = [
    *_base_.train_pipeline[:-2],
    *_base_.augmentation,
    *_base_.train_pipeline[-2:],  # TokenizeCaption, PackImageTextInputs
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
