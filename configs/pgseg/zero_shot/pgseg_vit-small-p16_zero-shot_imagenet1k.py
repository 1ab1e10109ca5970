# Zero-shot classification of ImageNet-1k, by mmpretrain's data set and accuracy and by open_clip's
# names and 80 templates
_base_ = [
    '../../_base_/models/pgseg_vit-small-p16.py',
    '../../_base_/default_runtime.py',
]
model = dict(
    type='PGSegClassifier',
    templates='openai80',
    class_embed_cache='{{$PGSEG_CACHE:~/.cache/pgseg_mm}}',  # 80 000 prompts take a while
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmpretrain.ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='mmpretrain.CenterCrop', crop_size=224),
    dict(type='mmpretrain.PackInputs'),
]
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmpretrain.ImageNet',
        data_root='{{$PGSEG_DATA_ROOT:data}}/imagenet',
        split='val',
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, 5))
test_cfg = dict(type='TestLoop')
custom_hooks = [dict(type='VocabularyHook', vocabulary='imagenet1k')]
# not the hooks of training, and none that draws label maps
default_hooks = dict(
    _delete_=True,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
)
