# Image-text pairs of CC3M and CC12M: a JSON Lines file each, with `image` and `caption`
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmpretrain.RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.08, 1.0),
        backend='pillow',
        interpolation='bilinear',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='TokenizeCaption', context_length=77),
    dict(type='PackImageTextInputs'),
]
train_dataloader = dict(
    batch_size=1024,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    pin_memory=True,
    sampler=dict(type='ResumableSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                dict(
                    type='ImageTextDataset',
                    data_root=data_root,
                    ann_file='captions_train.jsonl',
                    pipeline=train_pipeline,
                )
                for data_root in ('data/cc3m/', 'data/cc12m/')
            ],
        ),
    ),
)
