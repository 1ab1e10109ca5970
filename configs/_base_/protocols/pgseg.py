# PGSeg (arXiv 2310.19001): segmentation/ of its repository, commit 9f167cd. These benchmarks have
# settings there.
protocol = dict(
    name='pgseg',
    short_side=448,
    long_side=2048,
    window=448,
    stride=224,
    templates='simple',
    normalize_prompts=False,
    scores='affinity',
    benchmarks=dict(
        voc21=dict(words='voc21', background_threshold=0.95),
        voc20='unknown',
        context60=dict(words='context60', background_threshold=0.36),
        context59='unknown',
        coco_object=dict(words='coco_object', background_threshold=0.85),
        coco_stuff='unknown',
        ade20k='unknown',
        cityscapes='unknown',
        imagenet_s50=dict(words='imagenet_s50', background_threshold=0.11),
        imagenet_s300=dict(words='imagenet_s300', background_threshold=0.11),
        imagenet_s919=dict(words='imagenet_s919', background_threshold=0.11),
        lvis=dict(words='lvis', background_threshold=0.35),
    ),
)
