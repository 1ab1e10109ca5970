# The image half of the demo's model
_base_ = [
    '../../../configs/_base_/models/pgseg_tiny-p8.py',
    '../../../configs/_base_/datasets/emoji_scenes_64x64.py',
    '../../../configs/_base_/default_runtime.py',
]
model = dict(
    _delete_=True,
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=_base_.data_preprocessor.mean,
        std=_base_.data_preprocessor.std,
        bgr_to_rgb=True,
    ),
    backbone={**_base_.model.backbone, 'hard_assign': False},  # as the demo's
    decode_head=dict(
        type='PGSegHead',
        in_channels=_base_.model.decode_head.in_channels,
        channels=_base_.model.decode_head.channels,
        hidden_channels=_base_.model.decode_head.hidden_channels,
        class_embeds='class_embeds.npy',  # by tools/misc/embed_vocabulary.py
        naming='mixture',  # as the demo's
    ),
    test_cfg=dict(mode='whole'),
)
custom_hooks = []  # the words are embedded already
train_dataloader = None  # captions need the text tower
