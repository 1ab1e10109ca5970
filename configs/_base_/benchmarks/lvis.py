# LVIS v1 as semantic segmentation, 1203 categories and the background class, on the images of its
# validation set, which COCO has in train2017 and val2017
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='lvis',
    prepare='run tools/dataset_converters/lvis.py {{$PGSEG_DATA_ROOT:data}}/lvis/lvis_v1_val.json '
    '{{$PGSEG_DATA_ROOT:data}}/lvis --images {{$PGSEG_DATA_ROOT:data}}/coco_stuff164k/images',
)
load_labels = dict(type='LoadWideAnnotations', ignore_index=65535)
test_pipeline = [*_base_.test_pipeline[:2], load_labels, dict(type='PackSegInputs')]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            *_base_.tta_pipeline[1].transforms[:2],
            [load_labels],
            [dict(type='PackSegInputs')],
        ],
    ),
]
val_dataloader = dict(
    dataset=dict(
        type='LVISDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}',
        data_prefix=dict(img_path='coco_stuff164k/images', seg_map_path='lvis/annotations/val'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=65535)
test_evaluator = val_evaluator
custom_hooks = [dict(type='VocabularyHook', vocabulary='lvis')]
