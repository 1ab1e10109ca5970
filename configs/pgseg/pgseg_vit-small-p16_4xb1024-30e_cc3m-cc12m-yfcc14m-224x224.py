_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
sources = [*_base_.sources, _base_.yfcc14m]
train_dataloader = dict(
    dataset=dict(sources=sources, samples_per_epoch=sum(source['weight'] for source in sources))
)
