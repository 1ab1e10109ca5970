# Validates and saves a moving average of the weights, over about the last 1 / 2e-4 = 5000 steps
# (1.5 epochs). Statistics of batch norm and prototypes' mu are averaged with them.
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=2e-4, update_buffers=True),
]
