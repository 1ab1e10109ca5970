from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from .class_embeds import load_class_embeds


class OpenVocabHead(BaseDecodeHead):
    """Base of heads whose classes are embeddings of words, and no entry of a checkpoint.

    Args:
        in_channels: Channels of the features.
        channels: Channels D of the space that images and texts share.
        class_embeds: (K, D) embeddings of the (foreground) classes, or a file with them, in which
            a class may have several (see :func:`load_class_embeds`).
        background_threshold: If given, class 0 is the background, found by this score.
        **kwargs: Further arguments of mmseg's :class:`BaseDecodeHead`.

    Attributes:
        class_embeds: (W, D) embeddings of words, of unit length.
        class_index: (W,), the foreground class of each word.

    Raises:
        ValueError: If ``background_threshold`` is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        class_embeds: str | Path | Tensor | None = None,
        background_threshold: float | None = None,
        **kwargs,
    ) -> None:
        # mmseg compares a single class's sigmoid with `threshold`: at 1 it is always class 0
        super().__init__(
            in_channels,
            channels,
            num_classes=1,
            out_channels=1,
            threshold=1.0,
            dropout_ratio=0,
            **kwargs,
        )
        del self.conv_seg
        # no buffers: EMA and DDP copy those between models that may have other classes
        self.class_embeds = torch.empty(0, channels)
        self.class_index = torch.empty(0, dtype=torch.long)
        self.num_classes = self.out_channels = 0
        self.set_background_threshold(background_threshold)
        if class_embeds is not None:
            self.set_class_embeds(*load_class_embeds(class_embeds))

    def _apply(self, fn, *args, **kwargs):
        """Move the class embeddings where the weights go."""
        super()._apply(fn, *args, **kwargs)
        self.class_embeds = fn(self.class_embeds)
        self.class_index = self.class_index.to(self.class_embeds.device)
        return self

    @property
    def with_background(self) -> bool:
        """Whether class 0 is the background."""
        return self.background_threshold is not None

    def set_background_threshold(self, threshold: float | None) -> None:
        """Set how the background is found; see ``background_threshold`` of the class.

        Raises:
            ValueError: If the threshold is not positive.
        """
        if threshold is not None and not threshold > 0:
            raise ValueError(f'background_threshold must be None or positive, got {threshold}')
        self.background_threshold = threshold
        if len(self.class_index):
            self._count_classes()

    def set_class_embeds(self, embeds: Tensor, class_index: Sequence[int] | None = None) -> None:
        """Set what the head tells apart.

        Args:
            embeds: (W, D) embeddings of words, normalised here.
            class_index: Foreground class of each word, without gaps; by default each word is a
                class. A class scores as its best word does.

        Raises:
            ValueError: If the width is not D, or if words and classes do not fit.
        """
        if embeds.ndim != 2 or embeds.shape[1] != self.channels:
            raise ValueError(
                f'class embeddings must be of shape (classes, {self.channels}), got '
                f'{tuple(embeds.shape)}'
            )
        index = torch.arange(len(embeds)) if class_index is None else torch.tensor(class_index)
        if len(index) != len(embeds) or set(index.tolist()) != set(range(int(index.max()) + 1)):
            raise ValueError(
                f'class_index must name a class 0, 1, 2, ... for each of the {len(embeds)} words, '
                f'got {class_index}'
            )
        order = index.argsort(stable=True)  # one word a class is no search for the best
        self.class_embeds = F.normalize(embeds.detach()[order], dim=-1)
        self.class_index = index[order].to(embeds.device)
        self._count_classes()

    def _count_classes(self) -> None:
        foreground = int(self.class_index.max()) + 1
        self.num_classes = self.out_channels = foreground + self.with_background

    def loss(self, inputs, batch_data_samples: list, train_cfg: dict) -> dict:
        """Supervised loss against label maps, by ``loss_decode`` (see mmseg's base class)."""
        if self.with_background:
            raise ValueError(
                'supervised training has no logit for a background found by threshold; set '
                'background_threshold=None and give the background an embedding'
            )
        return super().loss(inputs, batch_data_samples, train_cfg)

    def _check_classes(self) -> None:
        if not len(self.class_embeds):
            raise RuntimeError(
                f'{type(self).__name__} has no classes: give a vocabulary to the segmentor (the '
                'VocabularyHook takes it from the data set), or class_embeds to the head'
            )

    def _best_words(self, words: Tensor, dim: int = -1) -> Tensor:
        """Scores of words, along ``dim``, to those of foreground classes by their best words."""
        num_classes = self.num_classes - self.with_background
        if words.shape[dim] == num_classes:
            return words
        words = words.movedim(dim, -1)
        classes = words.new_full((*words.shape[:-1], num_classes), float('-inf'))
        classes = classes.scatter_reduce(-1, self.class_index.expand_as(words), words, 'amax')
        return classes.movedim(-1, dim)

    def _with_background(
        self, scores: Tensor, thresholds: Sequence[float] | None, dim: int = -1
    ) -> Tensor:
        """Put the background before the classes' scores (B, ...), which lie along ``dim``.

        It is 1 where the best class stays below the threshold, or below the largest score of the
        window if that is smaller, and 0 elsewhere.

        Args:
            scores: Scores of B windows.
            thresholds: A background for each of them; by default that of the head, if it has one.
            dim: Axis of the classes.
        """
        if thresholds is None:
            if self.background_threshold is None:
                return scores
            thresholds = [self.background_threshold]
        shape = [1] * scores.ndim
        shape[dim] = -1
        largest = scores.amax(dim=tuple(range(1, scores.ndim)), keepdim=True)
        limits = largest.minimum(scores.new_tensor(thresholds).view(shape))
        background = scores.amax(dim=dim, keepdim=True) < limits
        return torch.cat([background.to(scores.dtype), scores], dim=dim)
