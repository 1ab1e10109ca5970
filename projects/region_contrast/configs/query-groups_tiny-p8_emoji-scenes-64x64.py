# mmseg's own ViT under eight queries, which learn from captions what the demo's groups learn
_base_ = ['../../../configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py']
custom_imports = dict(imports=['pgseg_mm', 'projects.region_contrast'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='QueryGroups',
        backbone=dict(
            type='VisionTransformer',
            img_size=(64, 64),
            patch_size=8,
            embed_dims=96,
            num_layers=3,
            num_heads=3,
            final_norm=True,
        ),
        in_channels=96,
        embed_dims=96,
        num_queries=8,
    ),
    decode_head=dict(loss_npr=None),
)
