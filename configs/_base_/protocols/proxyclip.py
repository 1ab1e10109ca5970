# ProxyCLIP (arXiv 2408.04883): proxyclip_segmentor.py and configs/ of its repository,
# commit e7b767f
protocol = dict(
    name='proxyclip',
    short_side=336,
    long_side=2048,
    window=336,
    stride=112,
    window_divisor=56,
    templates='openai80',
    normalize_prompts=True,
    scores='cosine',
    logit_scale=40,
    benchmarks=dict(
        voc21=dict(words='proxyclip/voc21', prob_threshold=0.2),
        voc20=dict(words='clearclip/voc20'),
        context60=dict(words='sclip/context60', prob_threshold=0.15),
        context59=dict(words='sclip/context59'),
        coco_object=dict(words='proxyclip/coco_object', prob_threshold=0.25),
        coco_stuff=dict(words='sclip/coco_stuff'),
        ade20k=dict(words='sclip/ade20k', short_side=448),
        cityscapes=dict(words='sclip/cityscapes', short_side=448, window=224),
    ),
)
