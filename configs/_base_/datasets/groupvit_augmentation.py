# GroupViT's augmentation behind crop and flip: timm's rand-m9-mstd0.5-inc1, and random erasing.
# timm erases after normalisation, with noise of mean 0 and deviation 1 in each pixel; the same
# noise is drawn here on the scale of 0 to 255, where it is rounded and cut. Images are BGR.
bgr_mean, bgr_std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
augmentation = [
    dict(
        type='RandAugment',
        _scope_='mmpretrain',
        policies='timm_increasing',
        num_policies=2,
        magnitude_level=9,
        magnitude_std=0.5,
        total_level=10,
        hparams=dict(pad_val=[round(value) for value in bgr_mean], interpolation='bilinear'),
    ),
    dict(
        type='mmpretrain.RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
]
