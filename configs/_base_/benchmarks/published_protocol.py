# How GroupViT and PGSeg were evaluated (docs/method.md, 4): short side 448 px, unless the long one
# is over 2048 px then. Windows of 448 px, 224 px apart, are the model's test_cfg.
# where runnable configs keep the embeddings of class names between runs
class_embed_cache = '{{$PGSEG_CACHE:~/.cache/pgseg_mm}}'
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 448), keep_ratio=True),
    dict(type='LoadWideAnnotations', ignore_index=255),
    dict(type='PackSegInputs'),
]
# tools/test.py --tta
tta_model = dict(type='PGSegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(2048 * eighths // 8, 56 * eighths), keep_ratio=True)
                for eighths in (6, 8, 10)
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadWideAnnotations', ignore_index=255)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline),
)
val_evaluator = dict(type='ZeroShotIoUMetric', iou_metrics=['mIoU'])
val_cfg = dict(type='ValLoop')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')
