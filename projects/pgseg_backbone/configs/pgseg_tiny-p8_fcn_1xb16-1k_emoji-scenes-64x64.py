# The demo's backbone under an FCN head: minutes on a CPU. README.md has the result
_base_ = [
    '../../../configs/_base_/models/pgseg_tiny-p8.py',
    '../../../configs/_base_/datasets/emoji_scenes_masks_64x64.py',
    '../../../configs/_base_/default_runtime.py',
    './_base_/layer_decay.py',
]
model = dict(
    _delete_=True,
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size=(64, 64),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone={
        **_base_.model.backbone,
        'hard_assign': False,  # as the demo's
        'out_type': 'featmap',
        'out_indices': (0, 1),
        'init_cfg': dict(
            type='Pretrained',
            checkpoint='{{$PGSEG_CHECKPOINT:work_dirs/tiny/iter_1200.pth}}',
            prefix='backbone.',
        ),
    },
    decode_head=dict(
        type='FCNHead',
        in_channels=[96, 96],
        in_index=[0, 1],
        input_transform='resize_concat',
        channels=96,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=20,
        norm_cfg=dict(type='BN'),
        align_corners=False,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(dataset=dict(dataset=dict(indices=100)))  # few masks
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(type='ResumableIterLoop', max_iters=1000, val_interval=250)
default_hooks = dict(checkpoint=dict(interval=1000, save_best='mIoU', max_keep_ckpts=1))
