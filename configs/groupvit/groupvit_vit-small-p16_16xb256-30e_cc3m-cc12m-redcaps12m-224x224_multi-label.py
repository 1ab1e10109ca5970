# As published: 16 GPUs, with the multi-label contrast
_base_ = ['./groupvit_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224_multi-label.py']
sources = [*_base_.sources, _base_.redcaps12m]
train_dataloader = dict(
    batch_size=256,
    dataset=dict(sources=sources, samples_per_epoch=sum(source['weight'] for source in sources)),
)
