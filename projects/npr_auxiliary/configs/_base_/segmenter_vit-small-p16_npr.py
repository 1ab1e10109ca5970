# mmseg's Segmenter ViT-S/16 with its weights from ImageNet; the head alone is another one
_base_ = ['../../../../configs/_base_/default_runtime.py']
custom_imports = dict(imports=['pgseg_mm', 'projects.npr_auxiliary'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size=(512, 512),
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='VisionTransformer',
        img_size=(512, 512),
        patch_size=16,
        embed_dims=384,
        num_layers=12,
        num_heads=6,
        drop_path_rate=0.1,
        final_norm=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        with_cls_token=True,
        interpolate_mode='bicubic',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/'
            'vit_small_p16_384_20220308-410f6037.pth',
        ),
    ),
    decode_head=dict(
        type='NPRSegmenterHead',
        in_channels=384,
        channels=384,
        num_classes=150,
        num_layers=2,
        num_heads=6,
        embed_dims=384,
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
        loss_npr=dict(loss_weight=0.1, begin=1000, ramp=1000),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(480, 480)),
)
