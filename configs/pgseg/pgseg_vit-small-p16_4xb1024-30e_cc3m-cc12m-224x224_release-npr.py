# NPR as the authors' release computes it, where that differs from the paper: for study
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
model = dict(
    backbone=dict(prototypes=dict(momentum=None)),  # mu stays as initialised
    decode_head=dict(
        # nan_if_empty=True would log as the release does, change nothing, and end the run
        loss_npr=dict(maximize=False, rejection='release'),
        text_prototypes=dict(type='ReleaseTextPrototypes'),
    ),
)
