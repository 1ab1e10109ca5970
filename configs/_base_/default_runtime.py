custom_imports = dict(imports=['pgseg_mm'], allow_failed_imports=False)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# ranks draw different drop-path and Gumbel noise
randomness = dict(seed=None, diff_rank_seed=True)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=2000),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PGSegVisualizationHook'),
    # a run that was killed goes on as if it had not been
    step_seed=dict(type='StepSeedHook'),
    data_state=dict(type='DataStateHook', max_skipped=0.1),
    finite_loss=dict(type='FiniteLossHook'),
    # what would fail, or do nothing, is refused before the first step
    preflight=dict(type='PreflightHook'),
    weights=dict(type='WeightsHook'),
    schedule=dict(type='ScheduleHook'),
    # one that is told to end (SIGTERM of a cluster, Ctrl-C) writes a checkpoint first
    stop_signal=dict(type='StopSignalHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='PGSegVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
