# SCLIP (arXiv 2312.01597): clip_segmentor.py and configs/ of its repository, commit b56bd30
protocol = dict(
    name='sclip',
    short_side=336,
    long_side=2048,
    window=224,
    stride=112,
    templates='openai80',
    normalize_prompts=True,
    scores='cosine',
    logit_scale=40,
    benchmarks=dict(
        voc21=dict(words='sclip/voc21', logit_scale=65, prob_threshold=0.1, area_threshold=0.1),
        voc20=dict(words='sclip/voc20'),
        context60=dict(words='sclip/context60', logit_scale=50, prob_threshold=0.1),
        context59=dict(words='sclip/context59'),
        coco_object=dict(words='sclip/coco_object', logit_scale=50, prob_threshold=0.1),
        coco_stuff=dict(words='sclip/coco_stuff', short_side=448),
        ade20k=dict(words='sclip/ade20k'),
        cityscapes=dict(words='sclip/cityscapes', short_side=560),
    ),
)
