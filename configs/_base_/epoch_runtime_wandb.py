# In place of epoch_runtime.py: scalars for Weights & Biases, too (pip install wandb; wandb login)
_base_ = ['./epoch_runtime.py']
vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='WandbVisBackend', init_kwargs=dict(project='pgseg-mm')),
]
visualizer = dict(vis_backends=vis_backends)
