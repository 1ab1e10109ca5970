# NACLIP (arXiv 2404.08181): naclip.py and configs/ of its repository, commit 0cac3a6
protocol = dict(
    name='naclip',
    short_side=336,
    long_side=2048,
    window=224,
    stride=112,
    templates='openai80',
    normalize_prompts=True,
    scores='cosine',
    logit_scale=40,
    pamr=dict(num_iters=10, dilations=(8, 16)),
    benchmarks=dict(
        # the whole image at once
        voc21=dict(words='sclip/voc21', window=None, stride=None, prob_threshold=0.1),
        voc20=dict(words='sclip/voc20', window=None, stride=None),
        context60=dict(words='sclip/context60', prob_threshold=0.1),
        context59=dict(words='sclip/context59'),
        coco_object=dict(words='sclip/coco_object', prob_threshold=0.1),
        coco_stuff=dict(words='sclip/coco_stuff'),
        ade20k=dict(words='sclip/ade20k'),
        cityscapes=dict(words='sclip/cityscapes', short_side=560),
    ),
)
