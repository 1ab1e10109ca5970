# GroupViT (arXiv 2202.11094): segmentation/ of its repository, commit 13b7861. Three benchmarks
# have settings there.
protocol = dict(
    name='groupvit',
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
        context60=dict(words='context60', background_threshold=0.35),
        context59='unknown',
        coco_object=dict(words='clearclip/coco_object', background_threshold=0.95),
        coco_stuff='unknown',
        ade20k='unknown',
        cityscapes='unknown',
    ),
)
