# GroupViT (arXiv 2202.11094): the same encoder without prototypes
_base_ = ['./pgseg_vit-small-p16.py']
model = dict(
    backbone=dict(prototypes=None),
    decode_head=dict(loss_npr=None),
)
background_thresholds = dict(_delete_=True, voc21=0.95, context60=0.35, coco_object=0.95)
