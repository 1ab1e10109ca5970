# The image half of the published model in mmseg's EncoderDecoder; classes come from a file
_base_ = [
    '../../../configs/_base_/models/pgseg_vit-small-p16.py',
    '../../../configs/_base_/benchmarks/voc21.py',
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
    backbone=_base_.model.backbone,
    decode_head=dict(
        type='PGSegHead',
        in_channels=_base_.model.decode_head.in_channels,
        channels=_base_.model.decode_head.channels,
        hidden_channels=_base_.model.decode_head.hidden_channels,
        class_embeds='class_embeds.npy',  # by tools/misc/embed_vocabulary.py
        background_threshold=_base_.background_thresholds.voc21,
    ),
    test_cfg=_base_.model.test_cfg,
)
custom_hooks = []  # the words are embedded already
tta_model = dict(type='SegTTAModel')
