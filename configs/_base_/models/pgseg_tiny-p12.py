# pgseg_tiny-p8.py for photographs of 96 x 96 px, at the same cost: 8 x 8 patches
_base_ = ['./pgseg_tiny-p8.py']
model = dict(backbone=dict(img_size=96, patch_size=12))
