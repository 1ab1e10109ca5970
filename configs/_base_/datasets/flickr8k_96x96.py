# Flickr8k's 6000 training photographs, squeezed to 96 x 96 px, with five captions each. Made by
# tools/dataset_converters/flickr8k.py --size 96
data_root = '{{$PGSEG_DATA_ROOT:data}}/flickr8k/'
image_size = 96
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=image_size, crop_ratio_range=(0.4, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='TokenizeCaption', context_length=40),
    dict(type='PackImageTextInputs'),
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
