# SCLIP (arXiv 2312.01597): query and query, added to key and key
_base_ = ['./clip_vit-base-p16.py']
model = dict(backbone=dict(attention='sclip'))
