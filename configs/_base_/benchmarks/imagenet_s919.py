# ImageNet-S with 919 classes and the background class, on the validation images
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='imagenet_s919',
    prepare='run tools/dataset_converters/imagenet_s.py '
    '{{$PGSEG_DATA_ROOT:data}}/imagenet-s/ImageNetS919 '
    '--imagenet {{$PGSEG_DATA_ROOT:data}}/imagenet',
)
load_labels = dict(type='LoadWideAnnotations', rgb=True, ignore_index=1000)
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
        type='ImageNetSDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/imagenet-s/ImageNetS919',
        data_prefix=dict(img_path='validation', seg_map_path='validation-segmentation'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=1000, rgb=True)
test_evaluator = val_evaluator
custom_hooks = [dict(type='VocabularyHook', vocabulary='imagenet_s919')]
