# Images pasted into images, and prompts of nouns against single groups of their region
# (docs/tiny_model.md; what it is worth at this size is not known)
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224_paste.py']
train_pipeline = [
    *_base_.train_pipeline[:-2],
    dict(type='NounPrompts', num_prompts=3),
    *_base_.train_pipeline[-2:],  # TokenizeCaption, PackImageTextInputs
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
# all similarities of 1024 images and 12288 prompts at once would take gigabytes
model = dict(
    data_preprocessor=dict(prompts_apart=True),
    decode_head=dict(loss_multi_label=dict(type='LateInteractionLoss', micro_batch_size=128)),
)
