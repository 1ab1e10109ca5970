# Mixed precision in float16, the loss scaled as far as the gradients allow
_base_ = ['./pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
optim_wrapper = dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
