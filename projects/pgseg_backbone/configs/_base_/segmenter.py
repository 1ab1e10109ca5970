# The mask transformer reads the last stage's map
_base_ = ['./pgseg_vit-small-p16.py']
model = dict(
    decode_head=dict(
        type='SegmenterMaskTransformerHead',
        in_channels=384,
        in_index=2,
        channels=384,
        num_classes=150,
        num_layers=2,
        num_heads=6,
        embed_dims=384,
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    )
)
