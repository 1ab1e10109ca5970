# COCO-Stuff 164k: 171 things and stuff, on the validation images of 2017
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='coco_stuff',
    prepare="run mmseg's coco_stuff164k.py on {{$PGSEG_DATA_ROOT:data}}/coco_stuff164k",
)
val_dataloader = dict(
    dataset=dict(
        type='COCOStuffDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/coco_stuff164k',
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
    )
)
test_dataloader = val_dataloader
# the ids of COCO-Stuff's own label maps, which have gaps where COCO has no class
val_evaluator = dict(
    label_ids=[
        label for label in range(182) if label not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
    ]
)
test_evaluator = val_evaluator
custom_hooks = [dict(type='VocabularyHook', vocabulary='coco_stuff')]
