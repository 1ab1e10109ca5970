# CLIP's ViT-B/16 as it is, without PGSeg's projectors; the groups are clusters of its patches
model_name = 'ViT-B-16-quickgelu'
pretrained = 'openai'
model = dict(
    type='PGSeg',
    data_preprocessor=dict(
        type='PGSegDataPreProcessor',
        mean=[122.771, 116.746, 104.094],
        std=[68.501, 66.632, 70.323],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='OpenCLIPGroupViT',
        model_name=model_name,
        pretrained=pretrained,
        trainable_layers=0,
        grouping=dict(type='ClusterGrouping', seed_grid=(3, 3), scale=20.0),
    ),
    text_encoder=dict(
        type='OpenCLIPTextEncoder',
        model_name=model_name,
        pretrained=pretrained,
        trainable_layers=0,
    ),
    decode_head=dict(
        type='PGSegHead',
        in_channels=512,  # the width of open_clip's joint space
        channels=512,
        text_channels=512,
        hidden_channels=None,
        loss_contrastive=dict(type='ImageTextContrastiveLoss', temperature=0.01),
    ),
    templates='openai80',
    # windows of the size that the tower was trained at
    test_cfg=dict(mode='slide', crop_size=(224, 224), stride=(112, 112)),
)
