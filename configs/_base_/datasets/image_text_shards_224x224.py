# Tar shards of image-text pairs as img2dataset writes them, 10 000 addresses each
# (docs/training_data.md). An epoch is all pairs, counted by the *_stats.json beside the shards, and
# sources are mixed in proportion.
cc3m = dict(name='cc3m', shards='data/cc3m/{00000..00331}.tar')
cc12m = dict(name='cc12m', shards='data/cc12m/{00000..01242}.tar')
redcaps12m = dict(name='redcaps12m', shards='data/redcaps12m/{00000..01201}.tar')
yfcc14m = dict(name='yfcc14m', shards='data/yfcc14m/{00000..01482}.tar')
train_pipeline = [
    dict(type='DecodeImage'),
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
        type='WebImageTextDataset',
        sources=[cc3m, cc12m],
        pipeline=train_pipeline,
    ),
)
