_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['pgseg_mm'], allow_failed_imports=False)

train_dataloader = dict(batch_size=512, drop_last=True)

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmseg.PGSegViT',  # mmseg's registry, from a config of mmpretrain's
        out_indices=(2,),
        frozen_stages=3,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{$PGSEG_CHECKPOINT:checkpoints/pgseg_vit-small-p16.pth}}',
            prefix='backbone.',
        ),
    ),
    neck=[
        dict(type='GlobalAveragePooling'),
        dict(type='ClsBatchNormNeck', input_features=384),
    ],
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
    ),
)

# lr = 0.1 * batch / 256, as MAE's and MoCo v3's linear probes have it
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='LARS', lr=1.6, weight_decay=0.0, momentum=0.9),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=80, begin=10, end=90, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'), logger=dict(interval=10))
randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_batch_size=4096)
