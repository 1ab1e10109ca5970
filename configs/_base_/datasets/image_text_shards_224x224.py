# Tar shards of image-text pairs as img2dataset writes them, 10 000 addresses each
# (docs/training_data.md). A source's weight is its number of pairs, so that all pairs are read
# equally often; these are what GroupViT's authors had. Write down what you have.
cc3m = dict(name='cc3m', shards='data/cc3m/{00000..00331}.tar', weight=2891445)
cc12m = dict(name='cc12m', shards='data/cc12m/{00000..01242}.tar', weight=11156203)
redcaps12m = dict(name='redcaps12m', shards='data/redcaps12m/{00000..01201}.tar', weight=11866987)
yfcc14m = dict(name='yfcc14m', shards='data/yfcc14m/{00000..01482}.tar', weight=14615499)
sources = [cc3m, cc12m]
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
    sampler=dict(type='ResumableSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='WebImageTextDataset',
        sources=sources,
        samples_per_epoch=sum(source['weight'] for source in sources),
        pipeline=train_pipeline,
    ),
)
