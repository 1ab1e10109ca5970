# Pascal Context with the background class
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='context60',
    prepare='unpack VOCtrainval_03-May-2010.tar into {{$PGSEG_DATA_ROOT:data}} and run the '
    'pascal_context.py of mmseg on it',
)
val_dataloader = dict(
    dataset=dict(
        type='PascalContextDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/VOCdevkit/VOC2010',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
        ann_file='ImageSets/SegmentationContext/val.txt',
    )
)
test_dataloader = val_dataloader
custom_hooks = [dict(type='VocabularyHook', vocabulary='context60')]
