# ImageNet-S with 50 classes and the background class, on the validation images
_base_ = ['./imagenet_s919.py']
benchmark = dict(
    name='imagenet_s50',
    prepare='run tools/dataset_converters/imagenet_s.py '
    '{{$PGSEG_DATA_ROOT:data}}/imagenet-s/ImageNetS50 '
    '--imagenet {{$PGSEG_DATA_ROOT:data}}/imagenet',
)
val_dataloader = dict(
    dataset=dict(
        type='ImageNetS50Dataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/imagenet-s/ImageNetS50',
    )
)
test_dataloader = val_dataloader
custom_hooks = [dict(type='VocabularyHook', vocabulary='imagenet_s50')]
