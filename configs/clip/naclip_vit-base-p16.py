# NACLIP (arXiv 2404.08181): key and key, neighbours preferred, without residual and MLP
_base_ = ['./clip_vit-base-p16.py']
model = dict(backbone=dict(attention='naclip', gaussian_std=5.0))
