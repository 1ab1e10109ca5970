_base_ = [
    '../_base_/models/pgseg_tiny-p8.py',
    '../_base_/datasets/emoji_scenes_64x64.py',
    '../_base_/schedules/adamw.py',
    '../_base_/default_runtime.py',
]
# Scenes pasted into scenes: captions then have a place, and names stay with their groups; tokens
# are pooled softly (docs/tiny_model.md)
model = dict(
    backbone=dict(hard_assign=False),
    data_preprocessor=dict(batch_augments=dict(augments=[dict(type='PasteImages')], probs=[0.7])),
    decode_head=dict(
        loss_contrastive=dict(type='RegionTextContrast'),
        naming='mixture',
        loss_npr=dict(begin=600),
    ),
    # patches are coarse: classes follow the edges of the image
    test_cfg=dict(pamr=dict(num_iters=10, dilations=(1, 2, 4, 8))),
)
# published ones are for affinities
background_thresholds = dict(_delete_=True)
# fused: the same arithmetic in less time
optim_wrapper = dict(optimizer=dict(lr=1.5e-3, betas=(0.9, 0.98), fused=True))
param_scheduler = [
    dict(
        type='WarmupCosineLR',
        warmup=30,
        warmup_start=1e-5,
        eta_min=1e-5,
        end=1200,
        by_epoch=False,
    )
]
train_cfg = dict(type='ResumableIterLoop', max_iters=1200, val_interval=300)
default_hooks = dict(
    checkpoint=dict(interval=1200, save_best='mIoU', max_keep_ckpts=1),
    logger=dict(interval=20),
)
