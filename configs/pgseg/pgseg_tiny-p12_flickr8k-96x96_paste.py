# Photographs pasted into photographs, in half of the steps: captions then have a place
_base_ = ['./pgseg_tiny-p12_flickr8k-96x96.py']
model = dict(
    data_preprocessor=dict(batch_augments=dict(augments=[dict(type='PasteImages')], probs=[0.5])),
    decode_head=dict(loss_contrastive=dict(type='RegionTextContrast'), naming='mixture'),
)
# published ones are for affinities
background_thresholds = dict(_delete_=True)
