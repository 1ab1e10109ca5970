# ClearCLIP (arXiv 2407.12442): query and query, without residual and MLP
_base_ = ['./clip_vit-base-p16.py']
model = dict(backbone=dict(attention='clearclip'))
