import math
import warnings

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up to the base rate, then a cosine that has been counted from the start.

    At the end of the warm-up the rate is already on the cosine, as in the published recipe
    (docs/method.md, 5); mmengine's own schedulers in a row would begin the cosine there.

    Args:
        optimizer: Optimizer or wrapper.
        warmup: Steps of the warm-up.
        warmup_start: Rate of the first step.
        eta_min: Rate at the end of the cosine.
        begin: First step.
        end: Last step; must be given.
        last_step: Index of the last step, used for resuming without a state.
        by_epoch: Whether steps are epochs.
        verbose: Whether to print each rate.

    Raises:
        ValueError: If there is no ``end``, or the warm-up does not fit.

    Warns:
        UserWarning: If ``eta_min`` is above the base rate.
    """

    def __init__(
        self,
        optimizer,
        warmup: int,
        warmup_start: float = 0.0,
        eta_min: float = 0.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if end >= INF:
            raise ValueError('WarmupCosineLR needs end, the last step of the cosine')
        if not 0 <= warmup < end - begin:
            raise ValueError(f'warmup must be shorter than the {end - begin} steps, got {warmup}')
        self.warmup = warmup
        self.warmup_start = warmup_start
        self.eta_min = eta_min
        super().__init__(
            optimizer,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )
        if eta_min > max(self.base_values):
            warnings.warn(
                f'the cosine rises, from {max(self.base_values):.3g} to eta_min={eta_min:.3g}: a '
                'rate that was scaled, as auto_scale_lr does, wants eta_min and warmup_start '
                'scaled alike',
                stacklevel=2,
            )

    @classmethod
    def build_iter_from_epoch(
        cls, optimizer, warmup, begin=0, end=INF, by_epoch=True, epoch_length=None, **kwargs
    ):
        """Build a scheduler that steps with iterations from settings in epochs."""
        if not by_epoch or not epoch_length:
            raise ValueError(
                'only settings in epochs can be converted, and only with the length of an epoch, '
                f'got by_epoch={by_epoch} and epoch_length={epoch_length}'
            )
        return cls(
            optimizer,
            warmup=int(warmup * epoch_length),
            begin=int(begin * epoch_length),
            end=end if end >= INF else int(end * epoch_length),
            by_epoch=False,
            **kwargs,
        )

    def _get_value(self) -> list[float]:
        return [self._rate(base) for base in self.base_values]

    def _rate(self, base: float) -> float:
        if self.last_step < self.warmup:
            return self.warmup_start + (base - self.warmup_start) * self.last_step / self.warmup
        phase = math.pi * self.last_step / (self.end - self.begin)
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(phase)) / 2
