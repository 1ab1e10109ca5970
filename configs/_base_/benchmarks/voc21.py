# Pascal VOC 2012 with the background class
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='voc21', prepare='unpack VOCtrainval_11-May-2012.tar into {{$PGSEG_DATA_ROOT:data}}'
)
val_dataloader = dict(
    dataset=dict(
        type='PascalVOCDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/VOCdevkit/VOC2012',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
    )
)
test_dataloader = val_dataloader
custom_hooks = [dict(type='VocabularyHook', vocabulary='voc21')]
