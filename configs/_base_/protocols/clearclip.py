# ClearCLIP (arXiv 2407.12442): clearclip_segmentor.py and configs/ of its repository,
# commit ad68a40
protocol = dict(
    name='clearclip',
    short_side=448,
    long_side=2048,
    window=448,
    stride=224,
    window_divisor='patch',
    templates='openai80',
    normalize_prompts=True,
    scores='cosine',
    logit_scale=50,
    benchmarks=dict(
        voc21=dict(words='clearclip/voc21', prob_threshold=0.5),
        voc20=dict(words='clearclip/voc20'),
        context60=dict(words='sclip/context60', prob_threshold=0.15),
        context59=dict(words='sclip/context59'),
        coco_object=dict(words='clearclip/coco_object', prob_threshold=0.4),
        coco_stuff=dict(words='sclip/coco_stuff'),
        ade20k=dict(words='sclip/ade20k'),
        cityscapes=dict(words='sclip/cityscapes', window=224, stride=224),
    ),
)
