# The 80 things of COCO and the background class, on the validation images of 2017
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='coco_object',
    prepare='run tools/dataset_converters/coco_object.py {{$PGSEG_DATA_ROOT:data}}/coco_stuff164k',
)
val_dataloader = dict(
    dataset=dict(
        type='COCOObjectDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/coco_stuff164k',
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
    )
)
test_dataloader = val_dataloader
custom_hooks = [dict(type='VocabularyHook', vocabulary='coco_object')]
