import copy
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
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
from ..inference.decision import Decision, as_decision
from ..inference.embedding_cache import EmbeddingCache
from ..inference.finite_images import check_finite
from ..inference.pamr import refinements
from ..inference.pixel_classes import ImageScores, PixelRules, classify_pixels, mean_logits
from ..inference.prepared_images import PreparedImages, prepare_images
from ..inference.sliding_window import Window, sliding_windows
from ..inference.window_scores import score_windows
from .checks import check_parts, check_test_cfg, encoded_size, set_naming, window_settings

Model = TypeVar('Model', bound='OpenVocabSegmentor')


@MODELS.register_module()
class OpenVocabSegmentor(BaseSegmentor):
    """Segments images by any words: an image encoder, a text encoder, and a head that compares.

    It is not trained; :class:`PGSeg` is one that is.

    Args:
        backbone: Config of the image encoder.
        text_encoder: Config of the text encoder.
        decode_head: Config of the head. What it has to offer: docs/mix_in.md.
        data_preprocessor: Config of the data preprocessor.
        vocabulary: Classes to predict: names in label order, or a vocabulary file. Usually the
            :class:`VocabularyHook` sets it from the data set under evaluation.
        templates: Name of a set of prompt templates, or templates with one ``{}`` each.
        class_embed_cache: Folder to keep class embeddings in between runs, such as
            ``~/.cache/pgseg_mm``; ``None`` embeds the words anew in each run. An entry is found by
            the hash of words, templates and text weights.
        test_cfg: ``mode='whole'``, or ``mode='slide'`` with ``crop_size`` and ``stride`` in pixels;
            ``window_divisor=N`` pads windows with zeros around to multiples of N (``'patch'``: of
            the patch), and cuts the scores back; ``image_divisor=N`` (Trident's) resizes an
            image with a side that is no multiple, so that both are, and none is below the window,
            whose sides should be multiples, too; with ``'whole'``, ``resize='direct'`` takes scores
            from the patches straight to the original size, not to the image's first.
            ``window_batch_size`` is the number of windows, of all images, that go through the
            encoder at a time, and bounds the memory: 8 by default with ``'slide'``, ``None`` (all)
            with ``'whole'``. ``seg_logits=True`` adds dense class scores to the results,
            ``class_scores=True`` the mean score of each class. ``pamr=dict(num_iters=10,
            dilations=(8, 16))`` refines the scores by the image (see :class:`PAMR`);
            ``decision=dict(logit_scale=40, prob_threshold=0.1)`` has a softmax over words decide,
            and class 0 may have words of its own (see :class:`Decision`).
        pretrained: Deprecated name of a checkpoint; use ``init_cfg``.
        init_cfg: Config of mmengine's weight initialisation.
        normalize_prompts: Whether embeddings of prompts get unit length before their mean.

    Raises:
        ValueError: If ``test_cfg`` is incomplete, vocabulary or templates are faulty, or the head
            expects other widths of texts than the text encoder gives.
    """

    makes_groups = False
    """Whether ``groups=True`` is possible."""

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict,
        data_preprocessor: dict | None = None,
        vocabulary: Sequence[str] | str | Path | None = None,
        templates: str | Sequence[str] = 'simple',
        class_embed_cache: str | Path | None = None,
        test_cfg: dict | None = None,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
        normalize_prompts: bool = False,
    ) -> None:
        if pretrained is not None:
            init_cfg = {'type': 'Pretrained', 'checkpoint': pretrained}
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.text_encoder = MODELS.build(text_encoder)
        self.decode_head = MODELS.build(decode_head)
        check_parts(self)
        self.align_corners = self.decode_head.align_corners
        self.templates = get_templates(templates)
        self.normalize_prompts = normalize_prompts
        self.embedding_cache = (
            None if class_embed_cache is None else EmbeddingCache(class_embed_cache)
        )
        self.vocabulary: Vocabulary | None = None
        self._embedded: Embedded | None = None
        self.test_cfg = check_test_cfg(test_cfg)
        self._check_background_rules()
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @property
    def decision(self) -> Decision | None:
        """The rule by which scores of words become classes, if ``test_cfg`` has one."""
        return as_decision(self.test_cfg.get('decision'))

    @property
    def skips_background(self) -> bool:
        """Whether class 0 is found by a threshold or has a constant score, so has no words."""
        decision = self.decision
        return self.decode_head.with_background or (decision is not None and decision.has_constant)

    def _check_background_rules(self) -> None:
        if self.decision is not None and self.decode_head.with_background:
            raise ValueError(
                'test_cfg decision finds the background by its own rules; set '
                'background_threshold=None in decode_head'
            )

    @property
    def class_embedder(self) -> ClassEmbedder:
        """Embeds words by the parts of this moment."""
        return ClassEmbedder(
            self.text_encoder,
            self.decode_head.text_projector,
            self.templates,
            self.embedding_cache,
            self.normalize_prompts,
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
            ValueError: If names are empty or repeated, or if the background is found by a threshold
                or has a constant score, and class 0 is not the background.
        """
        vocabulary = load_vocabulary(vocabulary)
        check_background(vocabulary, self.skips_background)
        self.vocabulary = vocabulary
        # weights may have been written past autograd, as EMA does
        self._embedded = self._embedded and self._embedded.in_doubt()

    def with_classes(
        self: Model,
        vocabulary: VocabularyLike,
        background_threshold: float | None = None,
        naming: str | None = None,
        **test_cfg: Any,
    ) -> Model:
        """A segmentor of other classes that shares all weights with this one.

        Neither of the two notices what classes the other has. Words that this one has embedded are
        not embedded again.

        Args:
            vocabulary: A vocabulary, class names in label order, or a vocabulary file.
            background_threshold: If given, class 0 is the background; see :class:`PGSegHead`. A
                ``decision`` takes it as its ``background_score``, if it has one, or else as its
                ``prob_threshold``.
            naming: How groups get their classes in place of the head's rule; see
                :class:`PGSegHead`.
            **test_cfg: What differs from this one's ``test_cfg``.

        Raises:
            ValueError: As :meth:`set_vocabulary`, if the threshold is not positive, if a setting is
                faulty, or if the head has no such rule.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a copy shares it, and gets another head
        other.decode_head = copy.copy(self.decode_head)
        other.test_cfg = check_test_cfg({**self.test_cfg, **test_cfg})
        decision = other.decision
        if decision is not None:
            rule = decision.with_threshold(background_threshold)
            other.test_cfg['decision'] = asdict(rule)
            background_threshold = None
        other.decode_head.set_background_threshold(background_threshold)
        if naming is not None:
            set_naming(other.decode_head, naming)
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
                    f'{type(self).__name__} has no vocabulary: call set_vocabulary with class '
                    'names, set vocabulary in the config, or add a VocabularyHook'
                )
            self.set_vocabulary(known)
        assert self.vocabulary is not None
        self._embedded = self.class_embedder.update(
            self.decode_head,
            self.vocabulary,
            self._embedded,
            self.skips_background,
            words_apart=self.decision is not None,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes of the vocabulary, with the background."""
        if self.vocabulary is not None:  # the head has those of the last prediction
            return len(self.vocabulary)
        return self.decode_head.num_classes

    @property
    def out_channels(self) -> int:
        """The same, in mmseg's words."""
        return self.num_classes

    def extract_feat(self, inputs: Tensor | list[Tensor]) -> Any:
        """What the backbone makes of (B, 3, H, W) images."""
        return self.backbone(inputs)

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: list[SegDataSample] | None = None
    ) -> dict[str, Tensor]:
        """There is none.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f'{type(self).__name__} predicts only; PGSeg trains on image-text pairs')

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
    ) -> list[ImageScores]:
        """Class scores of images, with padding and flip undone, before they are resized.

        Args:
            inputs: As :meth:`predict` takes them.
            data_samples: As :meth:`predict` takes them; they are left as they are.
            thresholds: Background thresholds to try in place of the head's, from one encoding; see
                :meth:`StitchedScores.with_background`.
        """
        prepared = self._prepare(inputs, data_samples)
        batch_size, divisor = window_settings(self.test_cfg, self._patch_size)
        scores = score_windows(
            self.extract_feat,
            self.decode_head,
            prepared.images,
            prepared.windows,
            batch_size,
            thresholds,
            divisor,
            direct=self.test_cfg.get('resize') == 'direct',
            pamr=refinements(self.test_cfg.get('pamr')).of_windows,
        )
        return prepared.undo(scores)

    def _prepare(
        self, inputs: Tensor | list[Tensor], data_samples: list[SegDataSample]
    ) -> PreparedImages:
        """Have the classes embedded, and the images ready to be encoded."""
        check_finite(inputs, data_samples)
        self._embed_vocabulary()
        guided = refinements(self.test_cfg.get('pamr')).of_image is not None
        size = partial(encoded_size, self.test_cfg, self._patch_size)
        straight = self.test_cfg.get('image_divisor') is not None
        return prepare_images(inputs, data_samples, size, self.windows, guided, straight)

    def fill_sample(
        self, sample: SegDataSample, views: Sequence[ImageScores], rules: PixelRules | None = None
    ) -> None:
        """Put the best classes, and on request dense scores, into the sample of an image.

        Args:
            sample: Sample whose ``ori_shape``, if it has one, is the size of the result.
            views: Class scores of one or several views of the image, which are averaged.
            rules: In place of those of ``test_cfg``.
        """
        height, width = sample.metainfo.get('ori_shape', views[0].size)[:2]
        size = (int(height), int(width))
        rules = rules or self.pixel_rules()
        wanted = self.test_cfg.get('class_scores', False)
        labels, class_scores = classify_pixels(views, size, rules, wanted)
        results = {'pred_sem_seg': PixelData(data=labels[None])}
        if self.test_cfg.get('seg_logits', False):
            results['seg_logits'] = PixelData(data=mean_logits(views, size, rules))
        if class_scores is not None:
            results['class_scores'] = class_scores
        sample.set_data(results)

    def pixel_rules(self) -> PixelRules:
        """How scores become classes, by ``test_cfg`` and the vocabulary."""
        decision, classes = self.decision, None
        if decision is not None and self.vocabulary is not None:
            _, labels = self.vocabulary.labelled_words(self.skips_background)
            classes = torch.tensor(labels) + int(self.skips_background)
        return PixelRules(decision, classes, refinements(self.test_cfg.get('pamr')).of_image)

    def add_groups(self, inputs: Tensor | list[Tensor], data_samples: list[SegDataSample]) -> None:
        """Put the groups of whole images into their samples, where the model makes groups.

        Raises:
            ValueError: If it makes none.
        """
        raise ValueError(
            f'{type(self).__name__} makes no groups; leave groups=True out of test_cfg, or take '
            'a PGSeg'
        )

    @property
    def _patch_size(self) -> int:
        return getattr(self.backbone, 'patch_size', 1)

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
        """Dense class scores (B, K, H, W) of whole images; with a ``decision`` those of words."""
        self._embed_vocabulary()
        return self.decode_head.predict(self.extract_feat(inputs), batch_img_metas, self.test_cfg)

    def _forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> Any:
        """Patch logits (B, K, h, w), of words with a ``decision``; or features without classes."""
        features = self.extract_feat(inputs)
        if self.known_vocabulary() is None and not self.decode_head.num_classes:
            return features
        self._embed_vocabulary()
        return self.decode_head(features)
