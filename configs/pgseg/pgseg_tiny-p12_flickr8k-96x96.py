# Trained on Flickr8k, validated on DAVIS 2016; retrieval/ has the config that measures retrieval
_base_ = [
    '../_base_/models/pgseg_tiny-p12.py',
    '../_base_/datasets/flickr8k_96x96.py',
    '../_base_/datasets/davis2016_main_objects_96x96.py',
    '../_base_/schedules/adamw.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(loss_npr=dict(begin=300)))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(
        type='WarmupCosineLR',
        warmup=100,
        warmup_start=1e-5,
        eta_min=1e-5,
        end=600,
        by_epoch=False,
    )
]
train_cfg = dict(type='ResumableIterLoop', max_iters=600, val_interval=200)
default_hooks = dict(
    checkpoint=dict(interval=600, save_best='mIoU_labelled', max_keep_ckpts=1),
    logger=dict(interval=20),
)
