# CLIP's ViT-B/16 that gives each patch an embedding, without any training (docs/clip.md)
model_name = 'ViT-B-16-quickgelu'
pretrained = 'openai'
model = dict(
    type='OpenVocabSegmentor',
    data_preprocessor=dict(
        type='PGSegDataPreProcessor',
        mean=[122.771, 116.746, 104.094],
        std=[68.501, 66.632, 70.323],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='CLIPDenseViT', model_name=model_name, pretrained=pretrained, attention='clip'
    ),
    text_encoder=dict(
        type='OpenCLIPTextEncoder',
        model_name=model_name,
        pretrained=pretrained,
        trainable_layers=0,
    ),
    decode_head=dict(type='DenseCLIPHead', in_channels=512),  # the width of the joint space
    templates='openai80',
    # windows of the size that the tower was trained at
    test_cfg=dict(mode='slide', crop_size=(224, 224), stride=(112, 112)),
)
