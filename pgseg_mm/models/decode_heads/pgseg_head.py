from pathlib import Path

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers import GroupFeatures, ProjectionMLP
from ..layers.precision import at_least_float32
from .group_naming import GroupNaming
from .image_text_losses import ImageTextLosses
from .open_vocab_head import OpenVocabHead


@MODELS.register_module()
class PGSegHead(GroupNaming, ImageTextLosses, OpenVocabHead):
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
        loss_contrastive: Config of the image-text loss, :class:`ImageTextContrastiveLoss` or
            :class:`RegionTextContrast`; its temperature scales class scores, too.
        loss_multi_label: Config of GroupViT's contrast of images and noun prompts, or of
            :class:`LateInteractionLoss`, which contrasts prompts and groups, or ``None``; it shares
            the temperature of ``loss_contrastive``.
        loss_npr: Config of the NPR loss on all grouping stages, or ``None``.
        text_prototypes: Config of :class:`TextPrototypes`, which adds T-NPR: ``loss_npr`` on the
            last grouping stage and the caption's words. ``embed_dims`` and ``text_dims`` default to
            ``in_channels``, which is the width of the stage's centres where all stages have one,
            and ``text_channels``.
        loss_decode: Config of the loss, or losses, against label maps in supervised fine-tuning.
        init_cfg: Config of mmengine's weight initialisation.
        **kwargs: Further arguments of mmseg's :class:`BaseDecodeHead`.

    Raises:
        ValueError: If ``top_classes`` or ``background_threshold`` is not positive, if there is no
            such ``naming``, if T-NPR is on without NPR, if NPR has prototypes of its own, if
            prompts are contrasted with groups that are not projected each by itself, or if widths
            differ and there are no projectors.
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
        super().__init__(
            in_channels,
            channels,
            class_embeds,
            background_threshold,
            loss_decode=loss_decode,
            init_cfg=init_cfg,
            **kwargs,
        )
        if top_classes < 1:
            raise ValueError(f'top_classes must be at least 1, got {top_classes}')
        self.top_classes = top_classes
        self.set_naming(naming)
        self.text_channels = text_channels
        self.image_projector = self._projector('in_channels', in_channels, hidden_channels)
        self.text_projector = (
            None
            if text_channels is None
            else self._projector('text_channels', text_channels, hidden_channels)
        )
        self._build_losses(
            loss_contrastive,
            loss_multi_label,
            loss_npr,
            text_prototypes,
            widths={'embed_dims': in_channels, 'text_dims': text_channels},
        )

    def _projector(self, name: str, width: int, hidden_channels: int | None) -> nn.Module:
        if hidden_channels is not None:
            return ProjectionMLP(width, self.channels, hidden_channels)
        if width != self.channels:
            raise ValueError(
                f'hidden_channels=None leaves out the projectors, so {name}={width} must be '
                f'channels={self.channels}'
            )
        return nn.Identity()

    def forward(self, features: GroupFeatures) -> Tensor:
        """Class logits of patches, differentiable, for supervised fine-tuning.

        Args:
            features: What the backbone returns with ``out_type='groups'``.

        Returns:
            (B, K, h, w): group-class logits, mixed by the soft assignment. Foreground classes only.
        """
        self._check_features(features)
        embeds = F.normalize(self.image_projector(features.tokens), dim=-1)
        logits = self._class_logits(embeds)
        assignment = features.patch_assignment().to(logits.dtype)
        return torch.einsum('bgk,bghw->bkhw', logits, assignment)

    def classify_images(self, features: GroupFeatures) -> Tensor:
        """Similarity of whole images and classes, scaled by the temperature.

        Args:
            features: Groups of B images.

        Returns:
            (B, K) logits; foreground classes only.
        """
        return self._class_logits(self.embed_images(features))

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
        self._check_classes()
        embeds = at_least_float32(embeds)
        # in half precision the scores of many classes would tie
        with torch.autocast(embeds.device.type, enabled=False):
            words = self.loss_contrastive.scale * embeds @ self.class_embeds.to(embeds.dtype).T
        return self._best_words(words)
