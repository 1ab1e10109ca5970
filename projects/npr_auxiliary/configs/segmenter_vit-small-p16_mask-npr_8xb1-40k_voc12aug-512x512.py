_base_ = [
    './_base_/segmenter_vit-small-p16_npr.py',
    './_base_/sgd.py',
    '../../../configs/_base_/datasets/voc12aug_512x512.py',
]
model = dict(decode_head=dict(num_classes=21))
train_dataloader = dict(batch_size=1)
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(type='ResumableIterLoop', max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000, save_best='mIoU', max_keep_ckpts=1))
