from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers import GroupFeatures
from ..layers.regions import RegionLayout
from ..losses import LateInteractionLoss, NPRPairs, RegionTextContrast
from ..text_encoders import TextFeatures


class ImageTextLosses:
    """The losses of a head that learns from image-text pairs: contrast, NPR and T-NPR.

    A head that has groups inherits from it and calls :meth:`_build_losses`.
    """

    image_projector: nn.Module
    text_projector: nn.Module | None
    loss_contrastive: Any

    @staticmethod
    def _check_features(features: GroupFeatures) -> None:
        if not isinstance(features, GroupFeatures):
            raise TypeError(
                "PGSegHead needs GroupFeatures; give the backbone out_type='groups' (got "
                f'{type(features).__name__})'
            )

    def _build_losses(
        self,
        loss_contrastive: dict,
        loss_multi_label: dict | None,
        loss_npr: dict | None,
        text_prototypes: dict | None,
        widths: dict[str, int | None],
    ) -> None:
        """Make the losses of their configs; see :class:`PGSegHead`.

        Args:
            loss_contrastive: Config of the image-text loss.
            loss_multi_label: Config of the contrast of images, or groups, and prompts, or ``None``.
            loss_npr: Config of the NPR loss, or ``None``.
            text_prototypes: Config of T-NPR, or ``None``.
            widths: Defaults of ``text_prototypes``.

        Raises:
            ValueError: If T-NPR is on without NPR, NPR has prototypes of its own, or groups are
                compared with prompts but not each projected by itself.
        """
        self.loss_contrastive = MODELS.build(loss_contrastive)
        self.loss_multi_label = None if loss_multi_label is None else MODELS.build(loss_multi_label)
        if self.contrasts_groups and not self.contrasts_regions:
            raise ValueError(
                'LateInteractionLoss compares groups, each projected by itself, as '
                f'{type(self.loss_contrastive).__name__} does not; set '
                "loss_contrastive=dict(type='RegionTextContrast') (without joined images it "
                'compares whole ones)'
            )
        self.loss_npr = None if loss_npr is None else MODELS.build(loss_npr)
        if getattr(self.loss_npr, 'prototypes', None) is not None:
            raise ValueError(
                'loss_npr has prototypes of its own, but this head compares groups with those of '
                'the backbone; leave prototypes out of loss_npr and set those of the backbone'
            )
        self.text_prototypes: Any = None
        if text_prototypes is not None:
            if self.loss_npr is None:
                raise ValueError(
                    'text_prototypes needs loss_npr, whose matching, temperature and schedule it '
                    'shares; for T-NPR alone set loss_npr=dict(loss_weight=0)'
                )
            self.text_prototypes = MODELS.build({**widths, **text_prototypes})

    @property
    def contrasts_regions(self) -> bool:
        """Whether the groups learn from regions, each projected by itself, or from their mean."""
        return isinstance(self.loss_contrastive, RegionTextContrast)

    @property
    def contrasts_groups(self) -> bool:
        """Whether prompts are compared with single groups, or with whole images or regions."""
        return isinstance(self.loss_multi_label, LateInteractionLoss)

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
        regions: RegionLayout | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch of image-text pairs.

        Args:
            features: Groups of B images, or of the M that were joined from them.
            text: Features of the B captions.
            npr_pairs: What :meth:`start_npr` returned for the groups, if it was called before.
            prompts: (B, K, C) end-token features of the captions' prompts, for
                ``loss_multi_label``.
            regions: Where the captions belong; ``None`` if each is that of a whole image.

        Returns:
            Named losses, and the temperatures and the mean number of groups that win a patch for
            the log.

        Raises:
            ValueError: If there is no text projector, NPR is on and the backbone makes no
                prototypes, there is one of prompts and ``loss_multi_label`` without the other, or
                the loss knows no regions and there are some.
        """
        if self.text_projector is None:
            raise ValueError('image-text pairs need text_channels, the width of the text encoder')
        pairs = self.start_npr(features) if npr_pairs is None else list(npr_pairs)
        names = [f'loss_npr_{stage}' for stage in range(len(pairs))]
        if self.loss_npr is not None and self.text_prototypes is not None:
            weight = self.text_prototypes.loss_weight
            words = _words_of_images(text, regions)
            captions = () if regions is None else (regions.num_regions,)
            compared = self.text_prototypes(features.centres[-1], *words, *captions)
            pairs.append(self.loss_npr.start(*compared, loss_weight=weight))
            names.append('loss_npr_text')
        losses = self._contrast(features, text, prompts, regions)
        if self.loss_npr is not None:
            losses.update(zip(names, self.loss_npr.finish(pairs), strict=True))
            losses['npr_temperature'] = self.loss_npr.temperature
        for stage, usage in enumerate(features.group_usage()):
            losses[f'group_usage_{stage}'] = usage
        return losses

    def _contrast(
        self,
        features: GroupFeatures,
        text: TextFeatures,
        prompts: Tensor | None,
        regions: RegionLayout | None,
    ) -> dict[str, Tensor]:
        """Losses between images, or regions of them, and their captions and prompts."""
        assert self.text_projector is not None
        self._check_prompts(prompts)
        texts = text.eot[:, None]
        if prompts is not None:  # one batch for the batch norm of the projector
            texts = torch.cat([texts, prompts], dim=1)
        images, groups = self._embed_for_contrast(features, regions)
        texts = self.text_projector(texts)
        captions = () if regions is None else (regions.captions.flatten(),)
        losses = {
            'loss_contrastive': self.loss_contrastive(images, texts[:, 0], *captions),
            'temperature': self.loss_contrastive.temperature,
        }
        if self.loss_multi_label is not None:
            scale = self.loss_contrastive.scale
            compared = (
                (groups, texts[:, 1:], scale, features.patch_assignment(), regions)
                if self.contrasts_groups
                else (images, texts[:, 1:], scale, *captions)
            )
            losses['loss_multi_label'] = self.loss_multi_label(*compared)
        return losses

    def _check_prompts(self, prompts: Tensor | None) -> None:
        if prompts is not None and self.loss_multi_label is None:
            raise ValueError(
                f'the batch has {prompts.shape[1]} prompts beside each caption, but no loss uses '
                'them; set loss_multi_label=dict(type="MultiLabelContrastiveLoss"), or of type '
                '"LateInteractionLoss", in the head, or take NounPrompts or NamePrompts out of the '
                'training pipeline'
            )
        if prompts is None and self.loss_multi_label is not None:
            raise ValueError(
                'loss_multi_label needs prompts, but the batch has captions only; put NounPrompts '
                'or NamePrompts before TokenizeCaption in the training pipeline, or set '
                'loss_multi_label=None'
            )

    def _embed_for_contrast(
        self, features: GroupFeatures, regions: RegionLayout | None
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings of (B,) images or (M * R,) regions, and of the groups (M, G, D) where each is
        projected by itself; not normalised.
        """
        if self.contrasts_regions:
            groups = self.image_projector(features.tokens)
            assignment = features.patch_assignment()
            return self.loss_contrastive.embed_regions(groups, assignment, regions), groups
        if regions is not None:
            raise ValueError(
                'the images of the batch were joined from several, but loss_contrastive is of '
                f'type {type(self.loss_contrastive).__name__}, which knows no regions; set '
                "loss_contrastive=dict(type='RegionTextContrast'), or take batch_augments out of "
                'the data preprocessor'
            )
        return self.image_projector(features.tokens.mean(dim=1)), None

    def embed_images(self, features: GroupFeatures) -> Tensor:
        """Embeddings of whole images, as the training has compared them with captions.

        Those of :class:`RegionTextContrast` are means of the projected groups, all others
        projections of the mean group.

        Args:
            features: Groups of B images.

        Returns:
            (B, D), normalised, in float32 at least.
        """
        self._check_features(features)
        return F.normalize(self._embed_for_contrast(features, None)[0], dim=-1).float()


def _words_of_images(text: TextFeatures, regions: RegionLayout | None) -> TextFeatures:
    """Features of all words about an image: those of its regions' captions, one behind another."""
    if regions is None:
        return text
    eot, tokens, mask = (x[regions.captions] for x in text)
    return TextFeatures(eot.mean(dim=1), tokens.flatten(1, 2), mask.flatten(1, 2))
