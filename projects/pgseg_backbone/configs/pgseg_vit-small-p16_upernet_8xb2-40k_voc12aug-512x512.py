_base_ = [
    './_base_/upernet.py',
    '../../../configs/_base_/datasets/voc12aug_512x512.py',
    './_base_/finetune_40k.py',
]
model = dict(decode_head=dict(num_classes=21), auxiliary_head=dict(num_classes=21))
