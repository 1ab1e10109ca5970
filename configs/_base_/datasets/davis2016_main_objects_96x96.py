# The main objects of DAVIS 2016 among twenty words, frames squeezed to 96 x 96 px as photographs
# are in flickr8k_96x96.py. Made by tools/dataset_converters/davis.py --every 8
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(
    batch_size=26,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='DAVISMainObjectDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/davis2016/',
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
# `labelled` are all words that a mask is of; the other eight share their masks with a person
val_evaluator = dict(
    type='SubsetIoUMetric',
    iou_metrics=['mIoU'],
    subsets=dict(
        labelled=['person', 'dog', 'car', 'cow', 'goat', 'camel', 'swan'],
        person=['person'],
        dog=['dog'],
        car=['car'],
    ),
)
test_evaluator = val_evaluator
# the background by five words of its own
custom_hooks = [dict(type='VocabularyHook', vocabulary='davis2016_surroundings')]
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
