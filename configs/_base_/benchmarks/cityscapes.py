# Cityscapes, 19 classes, on the validation images
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='cityscapes',
    prepare='unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into '
    '{{$PGSEG_DATA_ROOT:data}}/cityscapes and run the cityscapes.py of mmseg on it',
)
val_dataloader = dict(
    dataset=dict(
        type='CityscapesDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/cityscapes',
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
    )
)
test_dataloader = val_dataloader
# written as labelIds, which Cityscapes evaluates; the label maps of mmseg have trainIds
val_evaluator = dict(
    label_ids=[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
)
test_evaluator = val_evaluator
custom_hooks = [dict(type='VocabularyHook', vocabulary='cityscapes')]
