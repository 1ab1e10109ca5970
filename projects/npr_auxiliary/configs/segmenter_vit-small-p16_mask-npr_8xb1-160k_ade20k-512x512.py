_base_ = [
    './_base_/segmenter_vit-small-p16_npr.py',
    './_base_/sgd.py',
    '../../../configs/_base_/datasets/ade20k_512x512.py',
]
train_dataloader = dict(batch_size=1)
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=160000, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop', max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000, save_best='mIoU', max_keep_ckpts=1))
