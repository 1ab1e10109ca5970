# Logs, checkpoints and the choice of the best by epochs, for large data sets
_base_ = ['./default_runtime.py']
default_hooks = dict(
    checkpoint=dict(by_epoch=True, interval=1, save_best='mIoU', max_keep_ckpts=3),
    logger=dict(log_metric_by_epoch=True),
)
log_processor = dict(by_epoch=True)
