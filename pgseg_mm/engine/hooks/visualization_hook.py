from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from pgseg_mm.files.image_files import decode_image, read_image_file
from pgseg_mm.models import PGSeg

from ..models import unwrapped


@HOOKS.register_module()
class PGSegVisualizationHook(SegVisualizationHook):
    """mmseg's hook for pictures, which asks PGSeg for the groups of what it is going to draw.

    It draws alike with every version of mmseg, whose own hooks differ: a test draws every image, a
    validation the first image of every ``interval``-th batch; other images are predicted without
    their groups. Of several processes the first one draws.

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
        self._num_tested = 0
        self._own_groups: bool | None = None  # what the model's test_cfg says of groups

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
        if self.draw and self._is_drawn(runner, batch_idx):
            self._draw(outputs[0], 'val', runner.iter + batch_idx)
        self._ask_for_groups(runner, False)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[SegDataSample]
    ) -> None:
        """Draw every image of the batch."""
        for sample in outputs if self.draw else ():
            self._num_tested += 1
            self._draw(sample, 'test', self._num_tested)
        self._ask_for_groups(runner, False)

    def _draw(self, sample: SegDataSample, mode: str, step: int) -> None:
        content = read_image_file(sample.img_path, self.backend_args)
        self._visualizer.add_datasample(
            f'{mode}_{Path(sample.img_path).name}',
            decode_image(content, sample.img_path)[..., ::-1],
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            step=step,
        )

    def _is_drawn(self, runner: Runner, batch_idx: int) -> bool:
        return (runner.iter + batch_idx) % self.interval == 0

    def _ask_for_groups(self, runner: Runner, wanted: bool) -> None:
        if not self.draw:
            return
        model = unwrapped(runner.model)
        if isinstance(model, PGSeg):
            if self._own_groups is None:
                self._own_groups = model.test_cfg.get('groups', False)
            model.test_cfg['groups'] = self._own_groups or (wanted and is_main_process())
