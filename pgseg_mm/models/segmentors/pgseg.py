from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import get_world_size
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from ..inference.group_maps import group_maps
from ..inference.image_geometry import bilinear_image, flip_direction, without_padding
from ..inference.named_groups import NamedGroups, name_groups
from ..inference.pamr import refinements
from ..inference.stitching import FLIPPED_AXES
from ..layers import GroupFeatures
from ..layers.dist import all_reduce_sum
from ..layers.micro_batches import in_micro_batches
from ..layers.regions import RegionLayout
from ..text_encoders import TextFeatures
from .checks import check_names_groups, check_regions, check_train_cfg, window_settings
from .open_vocab_segmentor import OpenVocabSegmentor


@MODELS.register_module()
class PGSeg(OpenVocabSegmentor):
    """Learns to group from image-text pairs, segments by any words.

    `PGSeg <https://arxiv.org/abs/2310.19001>`_, or GroupViT with a backbone without prototypes.

    Args:
        backbone: Config of the image encoder, with ``out_type='groups'``.
        text_encoder: Config of the text encoder.
        decode_head: Config of the head, e.g. of :class:`PGSegHead`.
        data_preprocessor: Config of the data preprocessor.
        vocabulary: Classes to predict: names in label order, or a vocabulary file. Usually the
            :class:`VocabularyHook` sets it from the data set under evaluation.
        templates: Name of a set of prompt templates, or templates with one ``{}`` each.
        class_embed_cache: Folder to keep class embeddings in between runs, such as
            ``~/.cache/pgseg_mm``; ``None`` embeds the words anew in each run. An entry is found by
            the hash of words, templates and text weights.
        train_cfg: ``micro_batch_size=N`` encodes the images and texts of a training batch N at a
            time, and again in the backward pass, so that losses over a large batch fit into the
            memory of a small one. Losses and gradients are those of the large batch.
        test_cfg: Settings of a prediction, as :class:`OpenVocabSegmentor` has them, and
            ``groups=True``, which adds the groups of whole images, for pictures (see
            :func:`group_maps`).
        pretrained: Deprecated name of a checkpoint; use ``init_cfg``.
        init_cfg: Config of mmengine's weight initialisation.
        normalize_prompts: Whether embeddings of prompts get unit length before their mean.

    Raises:
        ValueError: If ``test_cfg`` is incomplete, vocabulary or templates are faulty, or the head
            expects other widths of texts than the text encoder gives.
    """

    makes_groups = True
    """Images become groups, which can be shown."""

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict,
        data_preprocessor: dict | None = None,
        vocabulary: Sequence[str] | str | Path | None = None,
        templates: str | Sequence[str] = 'simple',
        class_embed_cache: str | Path | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
        normalize_prompts: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            text_encoder,
            decode_head,
            data_preprocessor,
            vocabulary,
            templates,
            class_embed_cache,
            test_cfg,
            pretrained,
            init_cfg,
            normalize_prompts,
        )
        check_regions(self.data_preprocessor, self.decode_head)
        self.train_cfg = check_train_cfg(train_cfg, self.backbone)

    def train(self, mode: bool = True) -> 'PGSeg':
        """Switch to training or evaluation, as torch does.

        After a training the classes are embedded anew if their words' weights have changed, even if
        they were written past autograd, as fused optimizers do.
        """
        if mode:
            self._embedded = self._embedded and self._embedded.in_doubt()
        return super().train(mode)

    def forward(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample] | None = None,
        tokens: Tensor | None = None,
        mode: str = 'tensor',
        regions: RegionLayout | None = None,
        prompts: Tensor | None = None,
    ):
        """Entry of mmengine's Runner; see mmseg's :class:`BaseSegmentor`.

        Args:
            inputs: Images (B, 3, H, W); for prediction also a list of (3, H, W) of any sizes.
            data_samples: One for each image; prediction fills them.
            tokens: (B, L) token ids of the captions, or (B, 1 + K, L) with those of K prompts
                behind each caption's, for ``mode='loss'``.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
            regions: For ``mode='loss'``, where the captions belong in images that the data
                preprocessor has joined.
            prompts: For ``mode='loss'``, (B, K, L'') token ids of prompts that are not in
                ``tokens``.
        """
        if mode == 'loss':
            apart = () if prompts is None else (prompts,)  # a subclass need not know of them
            return self.loss(inputs, data_samples, tokens, regions, *apart)
        return super().forward(inputs, data_samples, mode)

    def loss(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample] | None = None,
        tokens: Tensor | None = None,
        regions: RegionLayout | None = None,
        prompts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch of image-text pairs (docs/method.md, 3); see :meth:`forward`.

        Raises:
            ValueError: If there are no tokens, or prompts both among them and apart.
        """
        if tokens is None:
            raise ValueError(
                'PGSeg trains on image-text pairs, but the batch has no tokens; use '
                'ImageTextDataset with TokenizeCaption and PackImageTextInputs'
            )
        if prompts is not None and tokens.ndim != 2:
            raise ValueError(
                'prompts come apart or with the captions, not both; got tokens '
                f'{tuple(tokens.shape)} and prompts {tuple(prompts.shape)}'
            )
        size = self.train_cfg.get('micro_batch_size')
        if size is not None:  # of joined images, which may be larger, as many as have its pixels
            size = max(size * len(inputs) // len(tokens), 1)
        features = self._encode_images(inputs, size, regions)
        npr_pairs = self.decode_head.start_npr(features)  # is matched while the text is encoded
        captions, of_prompts = self._encode_texts(tokens, prompts)
        patch_size = getattr(self.backbone, 'patch_size', None)
        if regions is not None and isinstance(patch_size, int):
            regions = regions.covered(features.grid_size, patch_size)
        return self.decode_head.loss_image_text(features, captions, npr_pairs, of_prompts, regions)

    def _encode_images(
        self, inputs: Tensor | list[Tensor], size: int | None, regions: RegionLayout | None
    ) -> GroupFeatures:
        if regions is not None and getattr(self.backbone, 'prototypes_of_regions', False):
            return self.backbone(inputs, size, regions)
        return self.backbone(inputs) if size is None else self.backbone(inputs, size)

    def _encode_texts(
        self, tokens: Tensor, prompts: Tensor | None
    ) -> tuple[TextFeatures, Tensor | None]:
        """Features of the captions, and (B, K, C) end-token features of their prompts, if any."""
        if prompts is not None:
            eot = self._encode_rows(prompts.flatten(0, 1)).eot
            return self._encode_rows(tokens), eot.unflatten(0, prompts.shape[:2])
        if tokens.ndim == 2:
            return self._encode_rows(tokens), None
        rows = self._encode_rows(tokens.flatten(0, 1))
        texts = TextFeatures(*(x.unflatten(0, tokens.shape[:2]) for x in rows))
        return TextFeatures(*(x[:, 0] for x in texts)), texts.eot[:, 1:]

    def _encode_rows(self, tokens: Tensor) -> TextFeatures:
        return in_micro_batches(self.text_encoder, self.train_cfg.get('micro_batch_size'), tokens)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses; what is logged is the mean over all ranks."""
        loss, log_vars = super().parse_losses(losses)
        if get_world_size() > 1:
            values = torch.stack([value.detach().float() for value in log_vars.values()])
            means = all_reduce_sum(values) / get_world_size()
            log_vars = dict(zip(log_vars, means.unbind(), strict=True))
        return loss, log_vars

    def add_groups(self, inputs: Tensor | list[Tensor], data_samples: list[SegDataSample]) -> None:
        """Put the groups and prototypes of whole images into their samples, as ``pred_groups``.

        Args:
            inputs: (B, 3, H, W), or B images (3, H, W) of any sizes.
            data_samples: One for each image, with padding and flip to undo. The maps are those of
                :func:`group_maps`.
        """
        for image, sample in zip(inputs, data_samples, strict=True):
            image = without_padding(image, sample.metainfo)
            height, width = (max(side, self._patch_size) for side in image.shape[1:])
            image = bilinear_image(image, (height, width))
            maps = group_maps(self.backbone, self.decode_head, image)
            flip = flip_direction(sample.metainfo)
            if flip is not None:
                maps = {name: indices.flip(FLIPPED_AXES[flip]) for name, indices in maps.items()}
            sample.set_data({'pred_groups': PixelData(**maps)})

    def name_groups(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample],
        labels: Sequence[Tensor],
        namings: Sequence[str],
        chosen: str | None = None,
    ) -> NamedGroups:
        """Name the groups of images by their labels, by the classes present, and by rules.

        Args:
            inputs: As :meth:`predict` takes them.
            data_samples: As :meth:`predict` takes them; they are left as they are.
            labels: For each image the classes of its pixels (h, w) at any size, int64, negative
                where there is none.
            namings: Naming rules of the head.
            chosen: The one by which ``'present'`` finds a background; by default the head's.

        Returns:
            Class scores by each way, as :meth:`segment` has them; see
            :func:`.named_groups.name_groups`.

        Raises:
            ValueError: If the head names no groups or has no such rule, or if ``decision`` of
                ``test_cfg`` compares words in place of classes, or its ``resize`` is by patches.
        """
        check_names_groups(self.decode_head, self.decision, self.test_cfg)
        prepared = self._prepare(inputs, data_samples)
        named = name_groups(
            self.extract_feat,
            self.decode_head,
            prepared.images,
            prepared.windows,
            prepared.labels(labels),
            namings,
            chosen,
            *window_settings(self.test_cfg, self._patch_size),
            pamr=refinements(self.test_cfg.get('pamr')).of_windows,
        )
        scores = {way: prepared.undo(images) for way, images in named.scores.items()}
        return named._replace(scores=scores)
