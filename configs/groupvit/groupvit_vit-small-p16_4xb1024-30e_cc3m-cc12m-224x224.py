_base_ = [
    '../_base_/models/groupvit_vit-small-p16.py',
    '../_base_/datasets/image_text_shards_224x224.py',
    '../_base_/datasets/groupvit_augmentation.py',
    '../_base_/benchmarks/voc21.py',
    '../_base_/schedules/groupvit_30e.py',
    '../_base_/epoch_runtime.py',
]
model = dict(decode_head=dict(background_threshold=_base_.background_thresholds.voc21))
train_pipeline = [
    *_base_.train_pipeline[:-2],
    *_base_.augmentation,
    *_base_.train_pipeline[-2:],  # TokenizeCaption, PackImageTextInputs
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
