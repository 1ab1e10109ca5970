# As published: 16 GPUs, with the multi-label contrast
_base_ = ['./groupvit_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224_multi-label.py']
train_dataloader = dict(
    batch_size=256, dataset=dict(sources=[_base_.cc3m, _base_.cc12m, _base_.yfcc14m])
)
