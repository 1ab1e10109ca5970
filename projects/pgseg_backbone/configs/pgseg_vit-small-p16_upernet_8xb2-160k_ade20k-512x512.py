_base_ = [
    './_base_/upernet.py',
    '../../../configs/_base_/datasets/ade20k_512x512.py',
    './_base_/finetune_160k.py',
]
