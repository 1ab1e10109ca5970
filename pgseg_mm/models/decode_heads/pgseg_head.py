from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers import GroupFeatures, ProjectionMLP
from ..losses import NPRPairs
from ..text_encoders import TextFeatures
from .class_embeds import load_class_embeds
from .group_naming import GroupNaming


@MODELS.register_module()
class PGSegHead(GroupNaming, BaseDecodeHead):
    """Groups and class embeddings to masks; owns the projectors and losses of PGSeg.

    The number of classes follows the vocabulary, and no entry of a checkpoint depends on it. In
    :class:`PGSeg` the vocabulary is embedded by the text encoder; in mmseg's ``EncoderDecoder``
    give ``class_embeds`` and a backbone with ``out_type='groups'``.

    Args:
        in_channels: Channels of the final group tokens.
        channels: Channels D of the space that images and texts share.
        text_channels: Channels of the text encoder's features; ``None`` where class embeddings are
            given and no text encoder is there.
        hidden_channels: Hidden width of both projectors; ``None`` leaves them out, for encoders
            whose images and texts share a space already, such as open_clip's.
        class_embeds: (K, D) embeddings of the (foreground) classes, or a file with them, in which
            a class may have several (see :func:`load_class_embeds`).
        background_threshold: If given, class 0 is the background: pixels whose best foreground
            affinity stays below this value, or below the largest affinity of the window if that is
            smaller (docs/method.md, 4.3).
        top_classes: Number of classes that the whole image admits, by ``naming='affinity'``.
        naming: How groups get their classes: by ``'affinity'``, as published; by their own
            ``'logits'``, whatever the whole image admits; or as ``'mixture'``, where a pixel has
            the mean of all groups' classes (docs/method.md, 4.2).
        loss_contrastive: Config of the image-text loss; its temperature scales class scores, too.
        loss_multi_label: Config of GroupViT's contrast of images and noun prompts, or ``None``; it
            shares the temperature of ``loss_contrastive``.
        loss_npr: Config of the NPR loss on all grouping stages, or ``None``.
        text_prototypes: Config of :class:`TextPrototypes`, which adds T-NPR: ``loss_npr`` on the
            last grouping stage and the caption's words. ``embed_dims`` and ``text_dims`` default to
            ``in_channels`` and ``text_channels``.
        loss_decode: Config of the loss, or losses, against label maps in supervised fine-tuning.
        init_cfg: Config of mmengine's weight initialisation.
        **kwargs: Further arguments of mmseg's :class:`BaseDecodeHead`.

    Raises:
        ValueError: If ``top_classes`` or ``background_threshold`` is not positive, if there is no
            such ``naming``, if T-NPR is on without NPR, or if widths differ and there are no
            projectors.
    """

    def __init__(
        self,
        in_channels: int = 384,
        channels: int = 256,
        text_channels: int | None = None,
        hidden_channels: int | None = 4096,
        class_embeds: str | Path | Tensor | None = None,
        background_threshold: float | None = None,
        top_classes: int = 5,
        loss_contrastive: dict = dict(type='ImageTextContrastiveLoss'),  # noqa: B006, C408
        loss_multi_label: dict | None = None,
        loss_npr: dict | None = None,
        text_prototypes: dict | None = None,
        loss_decode: dict | list[dict] = dict(type='CrossEntropyLoss', avg_non_ignore=True),  # noqa: B006, C408
        init_cfg: dict | list[dict] | None = None,
        naming: str = 'affinity',
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
            loss_decode=loss_decode,
            init_cfg=init_cfg,
            **kwargs,
        )
        del self.conv_seg
        if top_classes < 1:
            raise ValueError(f'top_classes must be at least 1, got {top_classes}')
        self.top_classes = top_classes
        self.set_naming(naming)
        self.text_channels = text_channels
        self.image_projector = self._projector('in_channels', in_channels, hidden_channels)
        self.text_projector: nn.Module | None = None
        if text_channels is not None:
            self.text_projector = self._projector('text_channels', text_channels, hidden_channels)
        self.loss_contrastive = MODELS.build(loss_contrastive)
        self.loss_multi_label = None if loss_multi_label is None else MODELS.build(loss_multi_label)
        self.loss_npr = None if loss_npr is None else MODELS.build(loss_npr)
        self.text_prototypes: nn.Module | None = None
        if text_prototypes is not None:
            if self.loss_npr is None:
                raise ValueError(
                    'text_prototypes needs loss_npr, whose matching, temperature and schedule it '
                    'shares; for T-NPR alone set loss_npr=dict(loss_weight=0)'
                )
            widths = {'embed_dims': in_channels, 'text_dims': text_channels}
            self.text_prototypes = MODELS.build({**widths, **text_prototypes})
        # no buffers: EMA and DDP copy those between models that may have other classes
        self.class_embeds = torch.empty(0, channels)
        self.class_index = torch.empty(0, dtype=torch.long)
        self.num_classes = self.out_channels = 0
        self.set_background_threshold(background_threshold)
        if class_embeds is not None:
            self.set_class_embeds(*load_class_embeds(class_embeds))

    def _projector(self, name: str, width: int, hidden_channels: int | None) -> nn.Module:
        if hidden_channels is not None:
            return ProjectionMLP(width, self.channels, hidden_channels)
        if width != self.channels:
            raise ValueError(
                f'hidden_channels=None leaves out the projectors, so {name}={width} must be '
                f'channels={self.channels}'
            )
        return nn.Identity()

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
            class_index: Foreground class of each word, in order and without gaps; by default each
                word is a class. A class scores as its best word does.

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
        self.class_embeds = F.normalize(embeds.detach(), dim=-1)
        self.class_index = index.to(embeds.device)
        self._count_classes()

    def _count_classes(self) -> None:
        foreground = int(self.class_index.max()) + 1
        self.num_classes = self.out_channels = foreground + self.with_background

    def forward(self, features: GroupFeatures) -> Tensor:
        """Class logits of patches, differentiable, for supervised fine-tuning.

        Args:
            features: What the backbone returns with ``out_type='groups'``.

        Returns:
            (B, K, h, w): group-class logits, mixed by the soft assignment. Foreground classes only.
        """
        self._check_features(features)
        embeds = F.normalize(self.image_projector(features.tokens), dim=-1)
        return torch.einsum(
            'bgk,bghw->bkhw', self._class_logits(embeds), features.patch_assignment()
        )

    def loss(self, inputs: GroupFeatures, batch_data_samples: list, train_cfg: dict) -> dict:
        """Supervised loss against label maps, by ``loss_decode`` (see mmseg's base class)."""
        if self.with_background:
            raise ValueError(
                'supervised training has no logit for a background found by threshold; set '
                'background_threshold=None and give the background an embedding'
            )
        return super().loss(inputs, batch_data_samples, train_cfg)

    def start_npr(self, features: GroupFeatures) -> list[NPRPairs]:
        """Begin to match groups and prototypes of B images, so that it goes on beside other work.

        Raises:
            ValueError: If NPR is on and the backbone makes no prototypes.
        """
        self._check_features(features)
        if self.loss_npr is None:
            return []
        if not features.prototypes:
            raise ValueError(
                'loss_npr needs the prototypes of the backbone; configure its prototypes or '
                'set loss_npr=None'
            )
        return [
            self.loss_npr.start(centres, prototypes)
            for centres, prototypes in zip(features.centres, features.prototypes, strict=True)
        ]

    def loss_image_text(
        self,
        features: GroupFeatures,
        text: TextFeatures,
        npr_pairs: list[NPRPairs] | None = None,
        prompts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch of image-text pairs.

        Args:
            features: Groups of B images.
            text: Features of their B captions.
            npr_pairs: What :meth:`start_npr` returned for the groups, if it was called before.
            prompts: (B, K, C) end-token features of the captions' noun prompts, for
                ``loss_multi_label``.

        Returns:
            Named losses, and the temperatures and the mean number of groups that win a patch for
            the log.

        Raises:
            ValueError: If there is no text projector, NPR is on and the backbone makes no
                prototypes, or there is one of prompts and ``loss_multi_label`` without the other.
        """
        if self.text_projector is None:
            raise ValueError('image-text pairs need text_channels, the width of the text encoder')
        pairs = self.start_npr(features) if npr_pairs is None else list(npr_pairs)
        names = [f'loss_npr_{stage}' for stage in range(len(pairs))]
        if self.loss_npr is not None and self.text_prototypes is not None:
            weight = self.text_prototypes.loss_weight
            compared = self.text_prototypes(features.centres[-1], *text)
            pairs.append(self.loss_npr.start(*compared, loss_weight=weight))
            names.append('loss_npr_text')
        losses = self._contrast(features, text, prompts)
        if self.loss_npr is not None:
            losses.update(zip(names, self.loss_npr.finish(pairs), strict=True))
            losses['npr_temperature'] = self.loss_npr.temperature
        for stage, usage in enumerate(features.group_usage()):
            losses[f'group_usage_{stage}'] = usage
        return losses

    def _contrast(
        self, features: GroupFeatures, text: TextFeatures, prompts: Tensor | None
    ) -> dict[str, Tensor]:
        """Losses between images and their captions and prompts."""
        assert self.text_projector is not None
        if prompts is not None and self.loss_multi_label is None:
            raise ValueError(
                f'the batch has {prompts.shape[1]} prompts beside each caption, but no loss uses '
                'them; set loss_multi_label=dict(type="MultiLabelContrastiveLoss") in the head, or '
                'take NounPrompts out of the training pipeline'
            )
        if prompts is None and self.loss_multi_label is not None:
            raise ValueError(
                'loss_multi_label needs prompts, but the batch has captions only; put NounPrompts '
                'before TokenizeCaption in the training pipeline, or set loss_multi_label=None'
            )
        images = self.image_projector(features.tokens.mean(dim=1))
        texts = text.eot[:, None]
        if prompts is not None:  # one batch for the batch norm of the projector
            texts = torch.cat([texts, prompts], dim=1)
        texts = self.text_projector(texts)
        losses = {
            'loss_contrastive': self.loss_contrastive(images, texts[:, 0]),
            'temperature': self.loss_contrastive.temperature,
        }
        if self.loss_multi_label is not None:
            scale = self.loss_contrastive.scale
            losses['loss_multi_label'] = self.loss_multi_label(images, texts[:, 1:], scale)
        return losses

    def classify_images(self, features: GroupFeatures) -> Tensor:
        """Similarity of whole images and classes, scaled by the temperature.

        Args:
            features: Groups of B images.

        Returns:
            (B, K) logits; foreground classes only.
        """
        self._check_features(features)
        embeds = self.image_projector(features.tokens.mean(dim=1))
        return self._class_logits(F.normalize(embeds, dim=-1).float())

    def assign_pixels(
        self, features: GroupFeatures, size: tuple[int, int], stage: int = -1
    ) -> Tensor:
        """Group of each pixel (docs/method.md, 4.1).

        Args:
            features: Groups of B windows.
            size: Height and width of the windows in pixels.
            stage: Index of the grouping stage.

        Returns:
            (B, height, width) group indices.
        """
        assignment = F.interpolate(
            features.patch_assignment(stage).float(),
            size=tuple(size),
            mode='bilinear',
            align_corners=self.align_corners,
        )
        return assignment.max(dim=1).indices

    def predict(
        self, inputs: GroupFeatures, batch_img_metas: list[dict], test_cfg: dict | None
    ) -> Tensor:
        """Class scores of pixels, for mmseg's ``EncoderDecoder``.

        Returns:
            (B, num_classes, H, W) scores at the size of the network's input.
        """
        meta = batch_img_metas[0]
        size = meta['img_shape']
        if not isinstance(size, torch.Size):  # a window of mmseg's sliding inference is one
            size = meta.get('pad_shape', size)
        if self.scores_pixels:
            return F.interpolate(
                self.dense_scores(inputs),
                size=tuple(size[:2]),
                mode='bilinear',
                align_corners=self.align_corners,
            )
        scores = self.classify_groups(inputs).transpose(1, 2)
        groups = self.assign_pixels(inputs, tuple(size[:2]))
        index = groups.flatten(1)[:, None].expand(-1, scores.shape[1], -1)
        return scores.gather(2, index).unflatten(2, groups.shape[1:])

    def _class_logits(self, embeds: Tensor) -> Tensor:
        """Scaled similarity of (B, G, D) normalised embeddings to each foreground class."""
        if not len(self.class_embeds):
            raise RuntimeError(
                'PGSegHead has no classes: give a vocabulary to PGSeg (the VocabularyHook takes it '
                'from the data set), or class_embeds to the head'
            )
        words = self.loss_contrastive.scale * embeds @ self.class_embeds.to(embeds.dtype).T
        num_classes = self.num_classes - self.with_background
        if words.shape[-1] == num_classes:
            return words
        classes = words.new_full((*words.shape[:-1], num_classes), float('-inf'))
        return classes.scatter_reduce(-1, self.class_index.expand_as(words), words, 'amax')

    @staticmethod
    def _check_features(features: GroupFeatures) -> None:
        if not isinstance(features, GroupFeatures):
            raise TypeError(
                "PGSegHead needs GroupFeatures; give the backbone out_type='groups' (got "
                f'{type(features).__name__})'
            )
