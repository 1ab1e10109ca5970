# Deprecated name: the published protocol with this project's synonyms; neither TCL's nor SCLIP's,
# which are --protocol tcl and sclip (docs/zero_shot.md).
# Short side 560 px
_base_ = ['./pgseg_vit-small-p16_zero-shot_cityscapes.py']
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(2048, 560), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(2048 * eighths // 8, 70 * eighths), keep_ratio=True)
                for eighths in (6, 8, 10)
            ],
            *_base_.tta_pipeline[1].transforms[1:],
        ],
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
custom_hooks = [dict(type='VocabularyHook', vocabulary='cityscapes_synonyms')]
