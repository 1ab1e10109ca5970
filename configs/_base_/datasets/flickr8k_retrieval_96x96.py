# Retrieval among Flickr8k's 1000 test photographs and their 5000 captions
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=False),
    dict(type='mmpretrain.PackInputs', algorithm_keys=('text',)),
]
test_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageTextRetrievalDataset',
        data_root='{{$PGSEG_DATA_ROOT:data}}/flickr8k/',
        ann_file='captions_test.jsonl',
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='ImageTextRetrievalMetric', topk=(1, 5, 10))
test_cfg = dict(type='TestLoop')
