# A Segmenter small enough to learn emoji scenes from scratch in minutes on a CPU. README.md has
# the result
_base_ = [
    './_base_/segmenter_vit-small-p16_npr.py',
    '../../../configs/_base_/datasets/emoji_scenes_masks_64x64.py',
    '../../../configs/_base_/schedules/adamw.py',
]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        img_size=(64, 64),
        patch_size=8,
        embed_dims=96,
        num_layers=4,
        num_heads=3,
        drop_path_rate=0.0,
        init_cfg=None,
    ),
    decode_head=dict(
        in_channels=96,
        channels=96,
        num_classes=20,
        num_heads=3,
        embed_dims=96,
        loss_npr=dict(loss_weight=0.1, begin=200, ramp=200),
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=2000),
]
train_cfg = dict(type='ResumableIterLoop', max_iters=2000, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=2000, save_best='mIoU', max_keep_ckpts=1))
