# The scenes' names against single groups of their region (docs/tiny_model.md)
_base_ = ['./pgseg_tiny-p8_emoji-scenes-64x64.py']
model = dict(
    data_preprocessor=dict(prompts_apart=True),
    decode_head=dict(loss_multi_label=dict(type='LateInteractionLoss')),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NamePrompts', names=_base_.data_root + 'classes.txt', num_prompts=3),
    dict(type='TokenizeCaption', context_length=40),
    dict(type='PackImageTextInputs'),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
