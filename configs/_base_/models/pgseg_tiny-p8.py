# Small enough to learn from scratch in minutes on two cores, for 64 x 64 px scenes.
# What differs from the published model beside its size, and why, is in docs/tiny_model.md.
_base_ = ['./pgseg_vit-small-p16.py']
model = dict(
    backbone=dict(
        img_size=64,
        patch_size=8,
        embed_dims=96,
        depths=(2, 1),
        num_heads=3,
        num_group_tokens=(8, 0),
        num_output_groups=(8,),
        drop_path_rate=0.0,
        assign_scale=4.0,
        prototypes=dict(hidden_channels=256),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.05),
    ),
    text_encoder=dict(embed_dims=64, num_layers=2, context_length=40),
    decode_head=dict(
        in_channels=96,
        channels=128,
        text_channels=64,
        hidden_channels=256,
        loss_npr=dict(loss_weight=0.1, begin=500),
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)
