# Scenes with masks to train on, of the classes of emoji_scenes_64x64.py, whose scenes they are
# evaluated on. Made by tools/dataset_converters/emoji_scenes.py with another seed
_base_ = ['./emoji_scenes_64x64.py']
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=16,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type='BaseSegDataset',
            data_root='data/emoji_scenes_masks/',
            data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
            metainfo=dict(classes='data/emoji_scenes_masks/classes.txt'),
            img_suffix='.png',
            pipeline=train_pipeline,
        )
    ),
)
custom_hooks = []  # no words
