# Retrieval with the weights of ../pgseg_tiny-p12_flickr8k-96x96.py
_base_ = [
    '../../_base_/models/pgseg_tiny-p12.py',
    '../../_base_/datasets/flickr8k_retrieval_96x96.py',
    '../../_base_/default_runtime.py',
]
model = dict(type='PGSegRetriever')
custom_hooks = []  # no words
# not the hooks of training, and none that draws label maps
default_hooks = dict(
    _delete_=True,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
)
