"""Validations of the runs of :mod:`toy_runs`."""

from mmengine.config import Config
from mmengine.runner import BaseLoop
from mmseg.registry import DATASETS, LOOPS


@LOOPS.register_module(force=True)
class ToyValidation(BaseLoop):
    """A validation without a model, which notes how far it came."""

    seen: list = []
    scores: list = []
    kill_at: tuple | None = None

    def __init__(self, runner, dataloader, evaluator):
        super().__init__(runner, dataloader)

    def run(self):
        self.runner.call_hook('before_val_epoch')
        for index, batch in enumerate(self.dataloader):
            if self.kill_at == (self.runner.iter, index):
                raise KeyboardInterrupt
            self.runner.call_hook('before_val_iter', batch_idx=index, data_batch=batch)
            self.seen.append((self.runner.iter, index))
            self.runner.call_hook('after_val_iter', batch_idx=index, data_batch=batch, outputs=[])
        score = self.scores.pop(0) if self.scores else 1.0
        self.runner.call_hook('after_val_epoch', metrics={'score': score})


def with_validation(cfg: Config) -> Config:
    """Let a run validate by :class:`ToyValidation`, in three batches."""
    loader = {k: v for k, v in cfg.train_dataloader.items() if k not in ('sampler', 'drop_last')}
    cfg.val_dataloader = loader | dict(sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.val_dataloader['dataset'] = dict(type='ToyNumbers')
    cfg.val_cfg, cfg.val_evaluator = dict(type='ToyValidation'), []
    return cfg


@DATASETS.register_module(force=True)
class ToyNumbers:
    """Numbers from 0 to 11."""

    metainfo: dict = {}

    def __len__(self):
        return 12

    def __getitem__(self, number):
        return number
