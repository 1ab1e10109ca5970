# Published schedule, from GroupViT's weights, for a global batch of 4096
_base_ = ['./adamw.py']
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = dict(
    type='WarmupCosineLR',
    warmup=10,
    warmup_start=1e-6,
    eta_min=1e-5,
    end=30,
    by_epoch=True,
    convert_to_iter_based=True,
)
train_cfg = dict(type='ResumableEpochLoop', max_epochs=30, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=4096)
