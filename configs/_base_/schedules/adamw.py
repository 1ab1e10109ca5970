# No decay of biases, norms, other 1-D parameters and temperatures (docs/method.md, 5)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'logit_scale': dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)
