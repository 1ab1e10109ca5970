# TCL (CVPR 2023): segmentation/ and configs/eval.yml of its repository, commit bc2b551.
# Its scores are sigmoid masks, whose scale and shift are learned, so there is no logit scale.
protocol = dict(
    name='tcl',
    short_side=448,
    long_side=2048,
    window=448,
    stride=224,
    window_divisor=16,
    templates='tcl',
    normalize_prompts=False,
    # ImageNet's, though the encoder is CLIP's
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    scores='mask',
    pamr=dict(num_iters=10, dilations=(1, 2, 4, 8, 12, 24), window_downscale=4),
    notes=[
        "TCL mixes its refined masks, of a decoder at a quarter of the window's size, with 0.3 of "
        "MaskCLIP's; here the model's own scores are resized there and refined alone"
    ],
    benchmarks=dict(
        voc21=dict(words='tcl/voc21', background_score=0.4),
        voc20=dict(words='tcl/voc20'),
        context60=dict(words='sclip/context60', background_score=0.4),
        context59=dict(words='sclip/context59'),
        coco_object=dict(words='clearclip/coco_object', background_score=0.4),
        coco_stuff=dict(words='tcl/coco_stuff'),
        ade20k=dict(words='ade20k'),
        cityscapes=dict(words='cityscapes'),
    ),
)
