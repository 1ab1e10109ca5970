# MaskCLIP (arXiv 2112.01071): each patch keeps its own value in the last block
_base_ = ['./clip_vit-base-p16.py']
model = dict(backbone=dict(attention='maskclip', pos_embed='size'))
