# ADE20K, 150 classes, on the validation images; label 0 is ignored
_base_ = ['./published_protocol.py']
benchmark = dict(
    name='ade20k',
    prepare='unpack ADEChallengeData2016.zip into {{$PGSEG_DATA_ROOT:data}}/ade',
)
val_dataloader = dict(
    dataset=dict(
        type='ADE20KDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/ade/ADEChallengeData2016',
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
    )
)
test_dataloader = val_dataloader
custom_hooks = [dict(type='VocabularyHook', vocabulary='ade20k')]
