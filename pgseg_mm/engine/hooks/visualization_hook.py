from collections.abc import Sequence

from mmengine.dist import is_main_process
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from pgseg_mm.models import PGSeg


@HOOKS.register_module()
class PGSegVisualizationHook(SegVisualizationHook):
    """mmseg's hook for pictures, which asks PGSeg for the groups of what it is going to draw.

    A test draws every image, a validation the first image of every ``interval``-th batch; other
    images are predicted without their groups. Of several processes the first one draws.

    Args:
        draw: Whether to draw at all.
        interval: Batches of a validation from one picture to the next.
        show: Whether to show pictures in a window. The visualizer's backends store them, too.
        wait_time: Seconds that the window stays.
        backend_args: Arguments of the file backend that reads the images.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict | None = None,
    ) -> None:
        # told of `show`, mmseg's hook takes the backends from the visualizer
        super().__init__(draw, interval, False, wait_time, backend_args)
        self.show = show

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Ask for groups if the batch will be drawn."""
        self._ask_for_groups(runner, self._is_drawn(runner, batch_idx))

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Ask for groups."""
        self._ask_for_groups(runner, True)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[SegDataSample]
    ) -> None:
        """Draw the first image of the batch, if it is the batch's turn."""
        if self._is_drawn(runner, batch_idx):
            super().after_val_iter(runner, batch_idx, data_batch, outputs)

    def _is_drawn(self, runner: Runner, batch_idx: int) -> bool:
        return (runner.iter + batch_idx) % self.interval == 0

    def _ask_for_groups(self, runner: Runner, wanted: bool) -> None:
        if not self.draw:
            return
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        if isinstance(model, PGSeg):
            model.test_cfg['groups'] = wanted and is_main_process()
