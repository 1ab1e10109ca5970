# GroupViT's multi-label contrast: three prompts from nouns of each caption
_base_ = ['./groupvit_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
train_pipeline = [
    *_base_.train_pipeline[:-2],
    dict(type='NounPrompts', num_prompts=3),
    *_base_.train_pipeline[-2:],  # TokenizeCaption, PackImageTextInputs
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(decode_head=dict(loss_multi_label=dict(type='MultiLabelContrastiveLoss')))
