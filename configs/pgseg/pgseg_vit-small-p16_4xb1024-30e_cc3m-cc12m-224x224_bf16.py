# Mixed precision in bfloat16, whose range is float32's: the loss needs no scaling
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))
