# Images pasted into images, so that captions have a place for the groups, too
_base_ = ['./open-clip_vit-base-p16_4xb1024-30e_cc3m-cc12m-224x224.py']
model = dict(
    data_preprocessor=dict(
        batch_augments=dict(
            augments=[dict(type='PasteImages', grid=14, sizes=(5, 7, 9))], probs=[0.7]
        )
    ),
    decode_head=dict(loss_contrastive=dict(type='RegionTextContrast'), naming='mixture'),
)
