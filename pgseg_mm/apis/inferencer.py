"""Segmentation of images by any words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from mmengine.logging import print_log
from mmseg.structures import SegDataSample
from numpy.typing import NDArray
from tqdm import tqdm

from pgseg_mm import limits
from pgseg_mm.background import is_background
from pgseg_mm.datasets.pairs.skips import MISSING_IMAGE, UnusableSample, run_pipeline
from pgseg_mm.messages import MAX_QUOTED, quoted, shown
from pgseg_mm.models import OpenVocabSegmentor
from pgseg_mm.models.inference.evaluation_mode import evaluating
from pgseg_mm.text.vocabulary import Vocabulary
from pgseg_mm.text.words import Classes, VocabularyLike, resolve, with_background

from .model import ModelSource, load_model
from .pipeline import make_pipeline
from .request import LoadedImage, Request
from .results import ResultWriter, Segmentation, Segmentations, summarise
from .sources import Image, Images, as_image, check_array, in_batches, is_single, path_of
from .views import ModelViews

DEFAULT_THRESHOLDS = {'affinity': 0.95, 'logits': 0.5, 'mixture': 0.5}
"""Threshold of the background where neither the user nor the config names one, by naming rule: of
affinities as published for the 20 classes of VOC (for 80 classes it is 0.85, for hundreds 0.11), of
probabilities a guess."""
MAX_PIXELS = limits.MAX_IMAGE_PIXELS
"""Pixels of an image file at most, by default."""


class PGSegInferencer:
    """Segments images by any words.

    Images are resized as by the test pipeline of the config. Colours are BGR where images are
    arrays, as OpenCV, mmcv and mmseg's ``MMSegInferencer`` have them; pictures are RGB.

    Args:
        model: A checkpoint that carries its config, such as the name of a published model,
            ``'hf-hub:owner/name'`` or the file of a training; or path of a config, a config, or a
            :class:`PGSeg` or other :class:`OpenVocabSegmentor`, of which neither classes nor
            threshold nor mode are changed.
        weights: Checkpoint for a config; a model may do without.
        device: Where to run it, such as ``'cpu'`` or ``'cuda:0'``. By default an accelerator if
            there is one; a model stays where it is.
        trust: Whether to run code that the checkpoint may hold; without it such files are read for
            their tensors only.
        max_pixels: Pixels of an image file at most, ``pgseg_mm.limits.MAX_IMAGE_PIXELS`` by
            default. Larger ones are refused before they are decoded. Above 179 million
            ``PIL.Image.MAX_IMAGE_PIXELS`` has to be raised, too.
        allow_partial: Whether to take a checkpoint that lacks weights of the model.

    Raises:
        FileNotFoundError: There is no such config or checkpoint.
        CheckpointError: The checkpoint cannot be read, or does not fit the model.
        TypeError: The model is no PGSeg or other open-vocabulary segmentor.
        ValueError: There are no weights for the model of a config, or the config has no model.

    Examples:
        >>> inferencer = PGSegInferencer('groupvit-gcc-yfcc')
        >>> inferencer = PGSegInferencer('config.py', 'checkpoint.pth')
        >>> result = inferencer('image.jpg', classes=['dog', 'red car', 'grass'])[0]
        >>> result.mask.shape, result.areas
        ((375, 500), {'grass': 0.74, 'dog': 0.26})
    """

    def __init__(
        self,
        model: ModelSource,
        weights: str | PathLike[str] | None = None,
        device: str | None = None,
        trust: bool = False,
        max_pixels: int | None = None,
        allow_partial: bool = False,
    ) -> None:
        self.model, self.cfg = load_model(model, weights, device, trust, allow_partial)
        max_pixels = limits.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
        if not max_pixels >= 1:
            raise ValueError(f'max_pixels must be at least 1, got {max_pixels}')
        self.max_pixels = max_pixels
        self._pipeline = make_pipeline(self.cfg, self.model)
        self._views = ModelViews(self.model)

    def __call__(
        self,
        images: Images,
        classes: Classes | None = None,
        vocabulary: VocabularyLike | None = None,
        *,
        progress: bool = True,
        **options: Any,
    ) -> Segmentations:
        """Segment images, and return when all are done.

        Args:
            images: As in :meth:`stream`.
            classes: As in :meth:`stream`.
            vocabulary: As in :meth:`stream`.
            progress: Whether to show how far it has got, for more than one image.
            **options: Those of :meth:`stream`.

        Returns:
            A list with a result for each image, also for a single one. Its ``failures`` are the
            results of images that could not be read; they have no mask, but an ``error``.

        Raises:
            Exception: As :meth:`stream`.
        """
        return Segmentations(self.stream(images, classes, vocabulary, progress=progress, **options))

    def stream(
        self,
        images: Images,
        classes: Classes | None = None,
        vocabulary: VocabularyLike | None = None,
        *,
        background: bool | None = None,
        threshold: float | None = None,
        batch_size: int = 1,
        scores: Literal['classes', 'dense'] | None = None,
        groups: bool = False,
        naming: str | None = None,
        pamr: bool | Mapping[str, Any] | None = None,
        pictures: bool = False,
        out_dir: str | PathLike[str] | None = None,
        progress: bool = False,
    ) -> Iterator[Segmentation]:
        """Segment images one batch after another, and return results as they are made.

        Args:
            images: Path or array of an image, a folder, or a list or an iterator of them, such as
                the frames of a video. Iterators are read as far as results are. Arrays are uint8
                and BGR, (H, W, 3), or (H, W) in grey. An image may also be the content of a file or
                an open one, a PIL image, or a tensor of RGB, (3, H, W), uint8 or from 0 to 1.
            classes: What to look for: a list with a word, or a list of synonyms, for each class, a
                dict of names and their further synonyms, or a text such as
                ``'dog . red car . grass'`` or ``'dog, red car, grass'``.
            vocabulary: Instead, a vocabulary file, one class a line, or the name of one that comes
                with the package, such as ``'voc21'``. By default the classes of the model or its
                checkpoint.
            background: Whether a class 'background' comes first, which takes what is like none of
                the words. By default it does if the words name it, or if there is a ``threshold``.
                By a ``decision``, a first class of several words may be it (docs/inference.md).
            threshold: Score from 0 to 1 below which a pixel is background. By default what the
                config has for this vocabulary or its model, by its own ``naming``, else 0.95 for
                affinities and 0.5 by another rule; others need others (docs/inference.md).
            batch_size: Images, of any sizes, that go through the model at a time.
            scores: ``'classes'`` adds the mean score of each class, ``'dense'`` that in each pixel.
            groups: Whether to add the groups of the first and the last stage.
            naming: How groups get their classes (see :class:`PGSegHead`); the model's by default.
            pamr: Whether to refine scores by the image, or how (see :class:`PAMR`); likewise.
            pictures: Whether to add a picture: image, segments and names, and groups if asked for.
            out_dir: Folder for masks and pictures; see :class:`ResultWriter`.
            progress: Whether to show how far it has got, for more than one image.

        Returns:
            Results in the order of the images. An image of a folder, list or iterator that cannot
            be read yields one with an ``error``, and the log names all of them in the end.

        Raises:
            FileNotFoundError: There is no such image, vocabulary, or image in a folder.
            TypeError: The images are of another type.
            ValueError: A single image cannot be read, or classes or options are faulty.
        """
        words, threshold = self._words(classes, vocabulary, background, threshold, naming)
        batches, number = in_batches(images, batch_size)
        view = self._views.get(words, threshold, scores, groups, naming, pamr)
        writer = None if out_dir is None else ResultWriter(out_dir, words.names)
        request = Request(view, words.names, pictures, writer, raises=is_single(images))
        return self._run(batches, number, request, progress)

    def _words(
        self,
        classes: Classes | None,
        vocabulary: VocabularyLike | None,
        background: bool | None,
        threshold: float | None,
        naming: str | None,
    ) -> tuple[Vocabulary, float | None]:
        """The classes that are asked for, and the threshold of the background if there is one."""
        words = resolve(classes, vocabulary, self.model.known_vocabulary)
        if background is None and threshold is not None:
            background = True
        decision = self.model.decision
        by_words = decision is not None and not decision.has_constant
        asked = background or (background is None and classes is None)
        rest = by_words and asked and _stands_for_the_rest(words)
        if not rest:
            words = with_background(words, background, keep_words=by_words)
        rest = rest or words.has_background
        _check_threshold(threshold, rest)
        if takes_every_pixel(self.model, len(words) - rest, rest):
            _warn_of_a_single_class(words)
        if rest and threshold is None and decision is not None:
            threshold = decision.threshold
        elif rest and threshold is None:
            threshold = self.default_threshold(vocabulary, naming)
        return words, threshold

    def _run(
        self,
        batches: Iterator[list[Any]],
        number: int | None,
        request: Request,
        progress: bool,
    ) -> Iterator[Segmentation]:
        failures: list[Segmentation] = []
        done = 0
        with tqdm(total=number, unit='image', disable=not progress or number == 1) as bar:
            for batch in batches:
                loaded = [self._load(image, done + i, request) for i, image in enumerate(batch)]
                for result in self._segment(loaded, request):
                    if result.error is not None:
                        failures.append(result)
                    bar.update()
                    yield result
                done += len(batch)
        if failures:
            print_log(summarise(done, failures), logger='current', level=logging.WARNING)

    def default_threshold(self, vocabulary: Any = None, naming: str | None = None) -> float:
        """Threshold of the background where none is given; see :meth:`stream`.

        Args:
            vocabulary: Name of a vocabulary whose threshold the config may have.
            naming: How groups get their classes; the model's rule by default. The config's
                thresholds are for that one.

        Returns:
            The threshold; 0 where a ``decision`` of the model finds no pixel to be background but
            by its words.

        Raises:
            ValueError: If the scores are such that there is no default, as cosines.
        """
        decision = self.model.decision
        if decision is not None:
            return decision.threshold or 0.0
        head = self.model.decode_head
        own = getattr(head, 'naming', None)
        if naming in (None, own):
            published = (self.cfg.get('background_thresholds') or {}).get(str(vocabulary))
            if known := published or head.background_threshold:
                return known
        if own is None:
            raise ValueError(
                f'There is no default threshold for the scores of {type(head).__name__}: give '
                'threshold to have a background, or background=False.'
            )
        return DEFAULT_THRESHOLDS.get(naming or own, DEFAULT_THRESHOLDS['mixture'])

    def read(self, image: Image | bytes, name: str | None = None) -> NDArray[np.uint8]:
        """Read an image as it is read for segmentation.

        Args:
            image: Path of an image, the content of its file, an open file, an array, a PIL image,
                or a tensor; see :func:`as_image`.
            name: What to call it in messages; by default its path.

        Returns:
            (H, W, 3), BGR, as viewers show it: turned by its EXIF orientation, the first picture of
            an animation, without transparency, of 8 bits.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError: This is no image.
            ValueError: The file cannot be decoded or has too many pixels, or the array has another
                shape or type.
        """
        image = as_image(image, name or 'The image', self.max_pixels)
        path = path_of(image)
        if isinstance(image, bytes):
            name = name or 'The image'
            source: dict[str, Any] = {'img_bytes': image, 'img_path': name}
        elif path is None:
            return check_array(image, name or 'The image')
        else:
            source = {'img_path': path}
        try:
            load = self._pipeline.load
            name = shown(name or path)
            results = run_pipeline(load, source, name, 0, self.max_pixels)
        except UnusableSample as error:
            kind = FileNotFoundError if error.reason == MISSING_IMAGE else ValueError
            raise kind(str(error)) from error
        return results['img']

    def _load(self, image: Any, number: int, request: Request) -> LoadedImage:
        path = path_of(image)
        name = str(number) if path is None else path
        try:
            array = self.read(image, f'Image {number}' if path is None else path)
            request.check_memory(array, name)
            return LoadedImage(name, path, array, self._pack(array))
        except (OSError, TypeError, ValueError) as error:
            if request.raises:
                raise
            return LoadedImage(name, path, error=str(error))

    def _pack(self, array: NDArray[np.uint8]) -> dict[str, Any]:
        """An image as the model takes it."""
        shape = array.shape[:2]
        image = array.astype(np.float32) if self._pipeline.to_float32 else array
        return self._pipeline.prepare({'img': image, 'img_shape': shape, 'ori_shape': shape})

    def _segment(self, loaded: list[LoadedImage], request: Request) -> Iterator[Segmentation]:
        packed = [image.packed for image in loaded if image.packed is not None]
        samples: Iterator[SegDataSample] = iter(())
        if packed:
            batch = {key: [item[key] for item in packed] for key in ('inputs', 'data_samples')}
            with torch.no_grad(), evaluating(request.view):
                samples = iter(request.view.test_step(batch))
        for image in loaded:
            yield request.result(image, None if image.packed is None else next(samples))


def _stands_for_the_rest(words: Vocabulary) -> bool:
    """Whether class 0 has several words, and no class is called background."""
    named = any(is_background(name) for name in words.names)
    return len(words) > 1 and len(words.words[0]) > 1 and not named


def _check_threshold(threshold: float | None, rest: bool) -> None:
    if threshold is None:
        return
    if not isinstance(threshold, (int, float, np.number)):
        raise TypeError(f'threshold must be a number from 0 to 1, got {threshold!r}.')
    if not 0 < threshold <= 1:
        raise ValueError(
            f'threshold must be None or positive, and at most 1, got {threshold}: it is compared '
            'with scores from 0 to 1.'
        )
    if not rest:
        raise ValueError(
            'A threshold finds the background; leave it out, or leave background=False out.'
        )


def takes_every_pixel(model: OpenVocabSegmentor, number: int, background: bool) -> bool:
    """Whether there is one class alone, of which no pixel can be less sure than of another.

    Args:
        model: The model.
        number: Classes beside the background.
        background: Whether there is a background.
    """
    compares_classes = model.makes_groups and model.decision is None
    return number == 1 and (compares_classes or not background)


def _warn_of_a_single_class(words: Vocabulary) -> None:
    print_log(
        f'{quoted(words.names[-1])} is the only class, so it takes every pixel, of the '
        'background, too: scores compare classes. Name what else there may be, such as '
        f"'{words.names[-1][:MAX_QUOTED]} . grass . sky'.",
        logger='current',
        level=logging.WARNING,
    )
