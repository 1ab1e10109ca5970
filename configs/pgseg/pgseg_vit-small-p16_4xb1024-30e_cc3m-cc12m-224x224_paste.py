# Each image has another one pasted in, in 70 % of the steps: captions then have a place
# (docs/tiny_model.md; what it is worth at this size is not known)
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
model = dict(
    data_preprocessor=dict(
        batch_augments=dict(
            augments=[dict(type='PasteImages', grid=14, sizes=(5, 7, 9))], probs=[0.7]
        )
    ),
    decode_head=dict(
        loss_contrastive=dict(type='RegionTextContrast'),
        naming='mixture',
        background_threshold=0.5,
    ),
)
# guesses; tools/analysis_tools/sweep_threshold.py finds better ones
background_thresholds = dict.fromkeys(_base_.background_thresholds, 0.5)
