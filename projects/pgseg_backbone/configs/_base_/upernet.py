# The neck makes maps of stride 4, 8 and 16 of the three stages
_base_ = ['./pgseg_vit-small-p16.py']
model = dict(
    neck=dict(
        type='MultiLevelNeck', in_channels=[384, 384, 384], out_channels=384, scales=[4, 2, 1]
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[384, 384, 384],
        in_index=[0, 1, 2],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
    ),
)
