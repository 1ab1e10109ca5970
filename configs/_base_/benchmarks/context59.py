# Pascal Context without background, which is ignored: label 0 in the files
_base_ = ['./context60.py']
benchmark = dict(name='context59')
val_dataloader = dict(dataset=dict(type='PascalContextDataset59'))
test_dataloader = val_dataloader
custom_hooks = [dict(type='VocabularyHook', vocabulary='context59')]
