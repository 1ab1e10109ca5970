# In place of epoch_runtime.py: scalars for TensorBoard, too (pip install tensorboard)
_base_ = ['./epoch_runtime.py']
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)
