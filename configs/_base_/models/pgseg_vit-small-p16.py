# Published model: ViT-S/16, 64 and 8 groups (arXiv 2310.19001)
data_preprocessor = dict(
    type='PGSegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    non_blocking=True,
)
model = dict(
    type='PGSeg',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='PGSegViT',
        img_size=224,
        patch_size=16,
        embed_dims=384,
        depths=(6, 3, 3),
        num_heads=6,
        num_group_tokens=(64, 8, 0),
        num_output_groups=(64, 8),
        drop_path_rate=0.1,
        prototypes=dict(type='NonLearnablePrototypes', momentum=0.9),
        out_type='groups',
    ),
    text_encoder=dict(
        type='PGSegTextTransformer',
        vocab_size=49408,
        context_length=77,
        embed_dims=256,
        num_layers=12,
    ),
    decode_head=dict(
        type='PGSegHead',
        in_channels=384,
        channels=256,
        text_channels=256,
        hidden_channels=4096,
        loss_contrastive=dict(type='ImageTextContrastiveLoss', temperature=0.07),
        loss_npr=dict(type='NPRLoss', loss_weight=0.1, temperature=0.1, threshold=0.1),
    ),
    train_cfg=dict(micro_batch_size=None),  # e.g. 256 for a large batch on few GPUs
    test_cfg=dict(mode='slide', crop_size=(448, 448), stride=(224, 224)),
)
# Affinity below which a pixel is background, as published for each benchmark that has one
background_thresholds = dict(
    voc21=0.95,
    context60=0.36,
    coco_object=0.85,
    lvis=0.35,
    imagenet_s50=0.11,
    imagenet_s300=0.11,
    imagenet_s919=0.11,
)
