# Made by tools/dataset_converters/emoji_scenes.py
data_root = 'data/emoji_scenes/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TokenizeCaption', context_length=40),
    dict(type='PackImageTextInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='ResumableSampler', shuffle=True, infinite=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(
            type='ImageTextDataset',
            data_root=data_root,
            ann_file='captions_train.jsonl',
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        metainfo=dict(classes=data_root + 'classes.txt'),
        img_suffix='.png',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='SubsetIoUMetric',
    iou_metrics=['mIoU'],
    subsets=dict(objects=data_root + 'objects.txt', textures=data_root + 'textures.txt'),
)
test_evaluator = val_evaluator
custom_hooks = [dict(type='VocabularyHook')]
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
