# Small enough to learn from scratch in minutes on two cores, for 64 x 64 px scenes
_base_ = ['./pgseg_vit-small-p16.py']
model = dict(
    backbone=dict(
        img_size=64,
        patch_size=8,
        embed_dims=96,
        depths=(2, 1, 1),
        num_heads=3,
        num_group_tokens=(16, 6, 0),
        num_output_groups=(16, 6),
        drop_path_rate=0.0,
        prototypes=dict(hidden_channels=256),
    ),
    text_encoder=dict(embed_dims=64, num_layers=2, context_length=40),
    decode_head=dict(
        in_channels=96,
        channels=128,
        text_channels=64,
        hidden_channels=256,
        loss_npr=dict(begin=400),
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)
