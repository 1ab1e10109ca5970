# Trident: trident.py and configs/ of its repository, commit a93b346. Only how images,
# windows, words and thresholds are; its features come from SAM and DINO, too.
protocol = dict(
    name='trident',
    short_side=448,
    long_side=2048,
    window=336,
    stride=224,
    image_divisor='patch',
    window_divisor=56,
    templates='openai80',
    normalize_prompts=True,
    scores='cosine',
    logit_scale=40,
    notes=[
        'how Trident rounds the sides of the image that it resizes again was read in a method that '
        'builds on it',
        'Trident averages features of windows and scores them once; here the scores of windows are '
        'averaged',
        "its refinement of the map by SAM's masks is left out",
    ],
    benchmarks=dict(
        voc21=dict(words='proxyclip/voc21', prob_threshold=0.2),
        voc20=dict(words='clearclip/voc20', short_side=336, stride=112),
        context60=dict(words='sclip/context60', short_side=576, prob_threshold=0.15),
        context59=dict(words='sclip/context59', short_side=576),
        coco_object=dict(words='proxyclip/coco_object', prob_threshold=0.25),
        coco_stuff=dict(words='sclip/coco_stuff'),
        ade20k=dict(words='sclip/ade20k', short_side=576),
        cityscapes=dict(words='sclip/cityscapes', short_side=688),
    ),
)
