# PGSeg (arXiv 2310.19001): segmentation/ of its repository, commit 9f167cd. These benchmarks have
# settings there; of ImageNet-S all 919 classes alone.
OF_919 = ['PGSeg evaluates 919 classes of ImageNet-S alone: words are our own, the rest is theirs']
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
        imagenet_s50=dict(words='imagenet_s50', background_threshold=0.11, notes=OF_919),
        imagenet_s300=dict(words='imagenet_s300', background_threshold=0.11, notes=OF_919),
        imagenet_s919=dict(words='pgseg/imagenet_s919', background_threshold=0.11),
        lvis=dict(words='pgseg/lvis', background_threshold=0.35),
    ),
)
