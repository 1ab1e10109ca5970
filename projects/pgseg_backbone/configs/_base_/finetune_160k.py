# For 16 images a step
_base_ = ['../../../../configs/_base_/default_runtime.py', './layer_decay.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(type='ResumableIterLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=16000, save_best='mIoU', max_keep_ckpts=1))
auto_scale_lr = dict(enable=False, base_batch_size=16)
