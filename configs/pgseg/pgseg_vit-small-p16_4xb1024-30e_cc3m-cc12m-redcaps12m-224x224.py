_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
train_dataloader = dict(dataset=dict(sources=[_base_.cc3m, _base_.cc12m, _base_.redcaps12m]))
