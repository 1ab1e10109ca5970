# The control: without what the captions taught
_base_ = ['./pgseg_tiny-p8_fcn_1xb16-1k_emoji-scenes-64x64.py']
model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='TruncNormal', layer='Linear', std=0.05))
)
