import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.dist import get_world_size
from mmengine.structures import PixelData
from mmengine.utils import to_2tuple
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from pgseg_mm.text.templates import get_templates
from pgseg_mm.text.vocabulary import Vocabulary
from pgseg_mm.text.words import VocabularyLike, load_vocabulary, vocabulary_of_meta

from ..inference.class_embedder import ClassEmbedder, Embedded, check_background
from ..inference.embedding_cache import EmbeddingCache
from ..inference.finite_images import check_finite
from ..inference.group_maps import group_maps
from ..inference.image_geometry import flip_direction, with_a_patch, without_padding
from ..inference.sliding_window import Window, sliding_windows
from ..inference.stitching import FLIPPED_AXES, StitchedScores, mean_class_map, mean_logits
from ..inference.window_scores import score_windows
from ..layers import GroupFeatures
from ..layers.dist import all_reduce_sum
from ..layers.micro_batches import in_micro_batches
from ..layers.regions import RegionLayout
from ..text_encoders import TextFeatures
from .checks import check_regions, check_test_cfg, check_text_widths, check_train_cfg

WINDOW_BATCH = 8
"""Windows that are encoded at a time."""
Model = TypeVar('Model', bound='PGSeg')


@MODELS.register_module()
class PGSeg(BaseSegmentor):
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
        test_cfg: ``mode='whole'``, or ``mode='slide'`` with ``crop_size`` and ``stride`` in pixels;
            ``seg_logits=True`` adds dense class scores to the results, ``class_scores=True`` the
            mean score of each class, and ``groups=True`` the groups of whole images, for pictures
            (see :func:`group_maps`). ``window_batch_size`` is the number of windows, of all images,
            that go through the encoder at a time, and bounds the memory: 8 by default with
            ``'slide'``, ``None`` (all) with ``'whole'``.
        pretrained: Deprecated name of a checkpoint; use ``init_cfg``.
        init_cfg: Config of mmengine's weight initialisation.

    Raises:
        ValueError: If ``test_cfg`` is incomplete, vocabulary or templates are faulty, or the head
            expects other widths of texts than the text encoder gives.
    """

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
    ) -> None:
        if pretrained is not None:
            init_cfg = {'type': 'Pretrained', 'checkpoint': pretrained}
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.text_encoder = MODELS.build(text_encoder)
        self.decode_head = MODELS.build(decode_head)
        check_text_widths(self.decode_head, self.text_encoder)
        check_regions(self.data_preprocessor, self.decode_head)
        self.align_corners = self.decode_head.align_corners
        self.templates = get_templates(templates)
        self.embedding_cache = (
            None if class_embed_cache is None else EmbeddingCache(class_embed_cache)
        )
        self.vocabulary: Vocabulary | None = None
        self._embedded: Embedded | None = None
        self.train_cfg = check_train_cfg(train_cfg)
        self.test_cfg = check_test_cfg(test_cfg)
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @property
    def class_embedder(self) -> ClassEmbedder:
        """Embeds words by the parts of this moment."""
        return ClassEmbedder(
            self.text_encoder,
            self.decode_head.text_projector,
            self.templates,
            self.embedding_cache,
        )

    def known_vocabulary(self) -> Vocabulary | None:
        """The classes to predict, or else those that the checkpoint names, if any."""
        return self.vocabulary or vocabulary_of_meta(getattr(self, 'dataset_meta', None))

    def set_vocabulary(self, vocabulary: VocabularyLike) -> None:
        """Choose the classes to predict.

        They are embedded at the next prediction, and again only when the text weights have moved
        since.

        Args:
            vocabulary: A vocabulary, class names in label order, or a vocabulary file.

        Raises:
            ValueError: If names are empty or repeated, or if the head finds a background by
                threshold and class 0 is not the background.
        """
        vocabulary = load_vocabulary(vocabulary)
        check_background(vocabulary, self.decode_head)
        self.vocabulary = vocabulary
        if self._embedded is not None:  # weights may have been written past autograd, as EMA does
            self._embedded = self._embedded.in_doubt()

    def with_classes(
        self: Model,
        vocabulary: VocabularyLike,
        background_threshold: float | None = None,
        **test_cfg: Any,
    ) -> Model:
        """A segmentor of other classes that shares all weights with this one.

        Neither of the two notices what classes the other has. Words that this one has embedded are
        not embedded again.

        Args:
            vocabulary: A vocabulary, class names in label order, or a vocabulary file.
            background_threshold: If given, class 0 is the background; see :class:`PGSegHead`.
            **test_cfg: What differs from this one's ``test_cfg``.

        Raises:
            ValueError: As :meth:`set_vocabulary`, or if the threshold is not positive.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a copy shares it, and gets another head
        other.decode_head = copy.copy(self.decode_head)
        other.decode_head.set_background_threshold(background_threshold)
        other.test_cfg = {**self.test_cfg, **test_cfg}
        other.set_vocabulary(vocabulary)
        return other

    def embed_words(self, words: Sequence[str]) -> Tensor:
        """Embed words by the prompt templates; see :meth:`ClassEmbedder.embed_words`.

        Args:
            words: W words or phrases.

        Returns:
            (W, D), normalised means over the templates.
        """
        return self.class_embedder.embed_words(words)

    def _embed_vocabulary(self) -> None:
        """Give the head the embeddings of the classes, unless it has them."""
        if self.vocabulary is None:
            known = self.known_vocabulary()
            if known is None and self.decode_head.num_classes:
                return  # the head was given embeddings in place of words
            if known is None:
                raise RuntimeError(
                    'PGSeg has no vocabulary: call set_vocabulary with class names, set vocabulary '
                    'in the config, or add a VocabularyHook'
                )
            self.set_vocabulary(known)
        assert self.vocabulary is not None
        self._embedded = self.class_embedder.update(
            self.decode_head, self.vocabulary, self._embedded
        )

    @property
    def num_classes(self) -> int:
        """Number of classes of the vocabulary, with the background."""
        return self.decode_head.num_classes

    @property
    def out_channels(self) -> int:
        """The same, in mmseg's words."""
        return self.decode_head.out_channels

    def forward(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample] | None = None,
        tokens: Tensor | None = None,
        mode: str = 'tensor',
        regions: RegionLayout | None = None,
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
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples, tokens, regions)
        return super().forward(inputs, data_samples, mode)

    def extract_feat(self, inputs: Tensor | list[Tensor]) -> GroupFeatures:
        """Group the patches of (B, 3, H, W) images."""
        return self.backbone(inputs)

    def loss(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample] | None = None,
        tokens: Tensor | None = None,
        regions: RegionLayout | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch of image-text pairs (docs/method.md, 3)."""
        if tokens is None:
            raise ValueError(
                'PGSeg trains on image-text pairs, but the batch has no tokens; use '
                'ImageTextDataset with TokenizeCaption and PackImageTextInputs'
            )
        size = self.train_cfg.get('micro_batch_size')
        if size is not None:  # of joined images, which may be larger, as many as have its pixels
            size = max(size * len(inputs) // len(tokens), 1)
        features = self.backbone(inputs) if size is None else self.backbone(inputs, size)
        npr_pairs = self.decode_head.start_npr(features)  # is matched while the text is encoded
        captions, prompts = self._encode_texts(tokens)
        return self.decode_head.loss_image_text(features, captions, npr_pairs, prompts, regions)

    def _encode_texts(self, tokens: Tensor) -> tuple[TextFeatures, Tensor | None]:
        """Features of the captions, and (B, K, C) end-token features of their prompts, if any."""
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

    def predict(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Segment images by the vocabulary (docs/method.md, 4).

        Windows of one size, of all images, go through the encoder in batches of
        ``window_batch_size``. An image that has no room for a patch is stretched to one.

        Args:
            inputs: (B, 3, H, W), or B images (3, H, W) of any sizes.
            data_samples: One for each image. ``padding_size`` (or ``img_padding_size``), ``flip``
                and ``ori_shape`` of their meta information are undone, as in mmseg.

        Returns:
            The samples with ``pred_sem_seg`` (1, H, W), and, if ``test_cfg`` asks for them,
            ``seg_logits`` (K, H, W), ``pred_groups``, and ``class_scores``: (K,), the mean score of
            each class over the pixels that it wins, 0 where it wins none.

        Raises:
            ValueError: If an image has NaN or infinite values.
            RuntimeError: If no vocabulary is known.
        """
        if data_samples is None:
            data_samples = [SegDataSample() for _ in inputs]
        for scores, sample in zip(self.segment(inputs, data_samples), data_samples, strict=True):
            self.fill_sample(sample, [scores])
        if self.test_cfg.get('groups', False):
            self.add_groups(inputs, data_samples)
        return data_samples

    def segment(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample],
        thresholds: Sequence[float] | None = None,
    ) -> list[StitchedScores]:
        """Class scores of images, with padding and flip undone, before they are resized.

        Args:
            inputs: As :meth:`predict` takes them.
            data_samples: As :meth:`predict` takes them; they are left as they are.
            thresholds: Background thresholds to try in place of the head's, from one encoding; see
                :meth:`StitchedScores.with_background`.
        """
        check_finite(inputs, data_samples)
        self._embed_vocabulary()
        metas = [sample.metainfo for sample in data_samples]
        images = [without_padding(image, meta) for image, meta in zip(inputs, metas, strict=True)]
        flips = map(flip_direction, metas)
        return [
            scores if flip is None else scores.flip(flip)
            for scores, flip in zip(self._segment(images, thresholds), flips, strict=True)
        ]

    def fill_sample(self, sample: SegDataSample, views: Sequence[StitchedScores]) -> None:
        """Put the best classes, and on request dense scores, into the sample of an image.

        Args:
            sample: Sample whose ``ori_shape``, if it has one, is the size of the result.
            views: Class scores of one or several views of the image, which are averaged.
        """
        size = tuple(sample.metainfo.get('ori_shape', views[0].rows.shape)[:2])
        results = {'pred_sem_seg': PixelData(data=mean_class_map(views, size)[None])}
        if self.test_cfg.get('seg_logits', False):
            results['seg_logits'] = PixelData(data=mean_logits(views, size))
        if self.test_cfg.get('class_scores', False):
            results['class_scores'] = torch.stack([view.class_scores() for view in views]).mean(
                dim=0
            )
        sample.set_data(results)

    def add_groups(self, inputs: Tensor | list[Tensor], data_samples: list[SegDataSample]) -> None:
        """Put the groups and prototypes of whole images into their samples, as ``pred_groups``.

        Args:
            inputs: (B, 3, H, W), or B images (3, H, W) of any sizes.
            data_samples: One for each image, with padding and flip to undo. The maps are those of
                :func:`group_maps`.
        """
        for image, sample in zip(inputs, data_samples, strict=True):
            image = with_a_patch(without_padding(image, sample.metainfo), self._patch_size)
            maps = group_maps(self.backbone, self.decode_head, image)
            flip = flip_direction(sample.metainfo)
            if flip is not None:
                maps = {name: indices.flip(FLIPPED_AXES[flip]) for name, indices in maps.items()}
            sample.set_data({'pred_groups': PixelData(**maps)})

    @property
    def _patch_size(self) -> int:
        return getattr(self.backbone, 'patch_size', 1)

    def _segment(
        self, images: list[Tensor], thresholds: Sequence[float] | None
    ) -> list[StitchedScores]:
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        images = [with_a_patch(image, self._patch_size) for image in images]
        windows = [self.windows((image.shape[-2], image.shape[-1])) for image in images]
        default = WINDOW_BATCH if self.test_cfg['mode'] == 'slide' else None
        batch_size = self.test_cfg.get('window_batch_size', default)
        scores = score_windows(
            self.extract_feat, self.decode_head, images, windows, batch_size, thresholds
        )
        return [image.at_size(size) for image, size in zip(scores, sizes, strict=True)]

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """Windows that ``test_cfg`` cuts an image into.

        Args:
            size: (height, width) of the image in pixels.
        """
        if self.test_cfg['mode'] == 'whole':
            return [Window(0, 0, *size)]
        return sliding_windows(
            size, to_2tuple(self.test_cfg['crop_size']), to_2tuple(self.test_cfg['stride'])
        )

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Dense class scores (B, K, H, W) of whole images."""
        self._embed_vocabulary()
        return self.decode_head.predict(self.extract_feat(inputs), batch_img_metas, self.test_cfg)

    def _forward(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> Tensor | GroupFeatures:
        """Patch logits (B, K, h, w), or the groups themselves as long as there are no classes."""
        features = self.extract_feat(inputs)
        if self.vocabulary is None:
            return features
        self._embed_vocabulary()
        return self.decode_head(features)
