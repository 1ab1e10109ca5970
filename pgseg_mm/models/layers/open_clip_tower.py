from typing import Any

from mmengine.model import BaseModule


class OpenCLIPTower(BaseModule):
    """Base of encoders around a tower of open_clip that is trained in whole, in part or not.

    Attributes:
        tower: A transformer of open_clip.
        model_name: open_clip's name of the model that the tower is from.
        frozen: Whether nothing of the tower is trained; it stays in evaluation mode then.
    """

    tower: Any
    model_name: str
    frozen = False
    behind_blocks: tuple[str, ...] = ()
    """Parts of the tower that are trained with its last blocks; some towers lack some."""

    def train_last(self, number: int | None, depth: int) -> None:
        """Freeze the tower but for its last blocks and what follows them.

        Args:
            number: Blocks to train; ``None`` for the whole tower, 0 for nothing of it.
            depth: Number of its blocks.

        Raises:
            ValueError: If the tower has fewer blocks, or cannot be frozen in part.
        """
        if number is None:
            return
        if not 0 <= number <= depth:
            raise ValueError(
                f'trainable_layers must be None or from 0 to {depth}, the number of blocks of '
                f'{self.model_name}, got {number}'
            )
        self.frozen = number == 0
        if self.frozen:
            self.tower.requires_grad_(False).eval()
        else:
            self._freeze_in_part(number)

    def _freeze_in_part(self, number: int) -> None:
        # not open_clip's own lock, which not all of its supported versions have
        self.tower.requires_grad_(False)
        behind = (getattr(self.tower, name) for name in self.behind_blocks)
        for part in (*self.tower.transformer.resblocks[-number:], *behind):
            if part is not None:
                part.requires_grad_(True)

    def train(self, mode: bool = True) -> 'OpenCLIPTower':
        """Switch the mode; a frozen tower stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        return self
