# PGSegViT under a head of mmseg: three maps (B, 384, H/16, W/16), one for each stage
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size=(512, 512),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='PGSegViT',
        img_size=512,
        # image-text pre-training; other weights of the checkpoint, such as the text tower, are left
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{$PGSEG_CHECKPOINT:checkpoints/pgseg_vit-small-p16.pth}}',
            prefix='backbone.',
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
