_base_ = ['./pgseg_vit-small-p16.py']
model = dict(
    decode_head=dict(
        type='FCNHead',
        in_channels=[384, 384, 384],
        in_index=[0, 1, 2],
        input_transform='resize_concat',
        channels=384,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    )
)
