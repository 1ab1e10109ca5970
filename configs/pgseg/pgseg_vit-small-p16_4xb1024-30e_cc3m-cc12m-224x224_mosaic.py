# Four images become one of twice the side, as large as the windows of the evaluation, in half of
# the steps: captions then have a place (docs/tiny_model.md; its worth at this size is not known).
# MosaicImages(scale=0.5) keeps the side, and the cost of a step.
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
model = dict(
    data_preprocessor=dict(batch_augments=dict(augments=[dict(type='MosaicImages')], probs=[0.5])),
    decode_head=dict(
        loss_contrastive=dict(type='RegionTextContrast'),
        naming='mixture',
        background_threshold=0.5,
    ),
)
# guesses; tools/analysis_tools/sweep_threshold.py finds better ones
background_thresholds = dict.fromkeys(_base_.background_thresholds, 0.5)
