"""How much of a segmentation is lost by grouping, by naming and by recognition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.runner import autocast
from mmengine.utils.progressbar import ProgressBar
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils.data import DataLoader

from pgseg_mm.errors import PreflightError
from pgseg_mm.evaluation import ConfusionCounts, LabelMapError, check_label_map, count_pairs
from pgseg_mm.models.decode_heads.group_naming import NAMING_RULES
from pgseg_mm.models.inference.evaluation_mode import evaluating
from pgseg_mm.models.inference.named_groups import ORACLE, PRESENT
from pgseg_mm.models.segmentors import PGSeg
from pgseg_mm.models.segmentors.checks import check_names_groups

from .hooks.vocabulary_hook import metainfo_of
from .models import unwrapped

UNLABELLED = -1
"""Label of pixels without a class, as the model takes it."""
LISTED_CONFUSIONS = 20
"""Largest confusions of each way that :meth:`Diagnosis.to_dict` has."""


class Diagnosis(NamedTuple):
    """What a model reaches when its groups are named in several ways; figures in percent."""

    counts: dict[str, ConfusionCounts]
    """Pixels by label and prediction, by way: ``'oracle'``, ``'present'``, and naming rules."""
    naming: str
    """The naming rule that counts as the model's."""
    num_images: int
    num_groups: int
    """Groups of a window."""
    used_groups: float
    """Groups that win a pixel, mean over windows."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Names of the ways, ``'oracle'`` and ``'present'`` first."""
        return tuple(self.counts)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.counts[ORACLE].classes

    def miou(self, way: str) -> float:
        """Mean IoU of a way; ``'free'`` is that of :attr:`naming`.

        Raises:
            KeyError: If there is no such way.
        """
        return self.counts[self._way(way)].miou

    def accuracy(self, way: str) -> float:
        """Share of pixels that are right by a way, as :meth:`miou` takes it."""
        return self.counts[self._way(way)].accuracy

    def class_iou(self, way: str) -> dict[str, float]:
        """IoU of each class by a way; NaN for one that is neither in the labels nor predicted."""
        return dict(zip(self.classes, self.counts[self._way(way)].class_iou.tolist(), strict=True))

    @property
    def losses(self) -> dict[str, float]:
        """Points of mean IoU that are lost by ``'grouping'``, ``'naming'``, ``'recognition'``.

        Each mean is over the classes that are labelled or predicted, as mmseg has it: a class that
        only the free naming finds counts as 0 there, and so as lost by recognition.
        """
        oracle, present, free = (self.miou(way) for way in (ORACLE, PRESENT, 'free'))
        return {
            'grouping': 100 - oracle,
            'naming': oracle - present,
            'recognition': present - free,
        }

    def to_dict(self) -> dict[str, Any]:
        """All figures, as JSON has them: ``None`` in place of NaN."""
        return {
            'naming': self.naming,
            'images': self.num_images,
            'groups': self.num_groups,
            'used_groups': _plain(self.used_groups),
            'losses': {name: _plain(value) for name, value in self.losses.items()},
            'ways': {
                way: {
                    'mIoU': _plain(self.miou(way)),
                    'aAcc': _plain(self.accuracy(way)),
                    'class_iou': {name: _plain(iou) for name, iou in self.class_iou(way).items()},
                    'confusions': [each._asdict() for each in counts.largest(LISTED_CONFUSIONS)],
                }
                for way, counts in self.counts.items()
            },
        }

    def _way(self, way: str) -> str:
        return self.naming if way == 'free' else way


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


class _Counted(NamedTuple):
    """What is known of an image."""

    pairs: dict[str, np.ndarray]
    used_groups: np.ndarray
    num_groups: int


@torch.no_grad()
def diagnose(
    model: Any,
    dataloader: DataLoader,
    namings: Sequence[str] = NAMING_RULES,
    naming: str | None = None,
    max_images: int | None = None,
    ignore_index: int = 255,
    fp16: bool = False,
    progress: bool = False,
) -> Diagnosis:
    """Find out what a model loses by grouping, by naming, and by recognition.

    Each window of an image is encoded once, and its groups are named in several ways
    (docs/diagnosis.md). What else a prediction does stays as it is.

    Args:
        model: A :class:`PGSeg`, or what wraps one. Without a vocabulary it gets the classes of the
            data set.
        dataloader: Images with label maps, as for a test.
        namings: Naming rules to try.
        naming: The one that counts as the model's, by default that of its head; it is tried, too.
        max_images: Only so many images, the first ones.
        ignore_index: Label of pixels that do not count.
        fp16: Whether to encode in half precision.
        progress: Whether to show a progress bar.

    Returns:
        On each rank, that of all images.

    Raises:
        PreflightError: If the model has no groups, does not compare classes, or has others than
            the data set.
        ValueError: If there is no such rule.
        LabelMapError: If there is nothing to measure by, or a label map does not belong to its
            image, or has an unknown label.
    """
    model = check_diagnosable(model)
    classes = tuple(metainfo_of(dataloader.dataset).get('classes') or ())
    _check_classes(model, classes)
    chosen = naming or str(getattr(model.decode_head, 'naming', NAMING_RULES[0]))
    rules = tuple(dict.fromkeys([*namings, chosen]))
    total = len(cast(Sized, dataloader.dataset))
    wanted = total if max_images is None else min(max_images, total)
    share = -(-wanted // get_world_size())
    with evaluating(model):
        own = _count(model, dataloader, rules, chosen, len(classes), ignore_index, fp16)
        counted = list(_shown(islice(own, share), share) if progress else islice(own, share))
    # samplers deal out images in turn, and repeat some to give each rank as many
    dealt = chain.from_iterable(zip_longest(*all_gather_object(counted)))
    images = list(islice((image for image in dealt if image is not None), wanted))
    return _summarise(images, classes, chosen)


def check_diagnosable(model: Any) -> PGSeg:
    """Refuse a model that has no groups to be named.

    Args:
        model: A model, or what wraps one.

    Returns:
        The model itself.

    Raises:
        PreflightError: If it names no groups, or decides by scores of words.
    """
    model = unwrapped(model)
    head = getattr(model, 'decode_head', None)
    if not isinstance(model, PGSeg):
        raise PreflightError(
            f'{type(model).__name__} with a {type(head).__name__} makes no groups whose names '
            'could be diagnosed; take a model of type PGSeg, as configs/pgseg and configs/groupvit '
            'have them'
        )
    try:
        check_names_groups(head, model.decision, model.test_cfg)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    return model


def _check_classes(model: PGSeg, classes: Sequence[str]) -> None:
    """Have the model know its classes, and refuse other ones than those of the labels."""
    if not classes:
        raise PreflightError(
            'the data set names no classes; set metainfo=dict(classes=...) in its config'
        )
    vocabulary = model.known_vocabulary()
    number = model.decode_head.num_classes if vocabulary is None else len(vocabulary)
    if not number:
        model.set_vocabulary(list(classes))
    elif number != len(classes):
        raise PreflightError(
            f'the model has {number} classes and the data set {len(classes)}; call set_vocabulary '
            'with a word for each class of the data set'
        )


def _shown(images: Iterator[_Counted], number: int) -> Iterator[_Counted]:
    bar = ProgressBar(number) if is_main_process() else None
    for image in images:
        yield image
        if bar is not None:
            bar.update()


def _count(
    model: PGSeg,
    dataloader: DataLoader,
    namings: Sequence[str],
    chosen: str,
    num_classes: int,
    ignore_index: int,
    fp16: bool,
) -> Iterator[_Counted]:
    """Name the groups of each image, and count its pixels."""
    for data in dataloader:
        batch = model.data_preprocessor(data, False)
        samples = batch['data_samples']
        labels = [_labels_of(sample, num_classes, ignore_index) for sample in samples]
        with autocast(enabled=fp16):
            named = model.name_groups(batch['inputs'], samples, labels, namings, chosen)
        for number, (sample, label) in enumerate(zip(samples, labels, strict=True)):
            pairs = {}
            for way, scores in named.scores.items():
                model.fill_sample(sample, [scores[number]])
                prediction = sample.pred_sem_seg.data[0]
                pairs[way] = count_pairs(prediction, label.to(prediction), num_classes)
            yield _Counted(pairs, named.used_groups[number].cpu().numpy(), named.num_groups)


def _labels_of(sample: SegDataSample, num_classes: int, ignore_index: int) -> Tensor:
    """(H, W) classes of the pixels of an image, negative where there is none."""
    if 'gt_sem_seg' not in sample:
        raise LabelMapError(
            f'image {sample.get("img_path")} has no label map, and what is lost is measured by '
            'labels; add LoadAnnotations to the pipeline of the data set'
        )
    label = sample.gt_sem_seg.data[0].long()
    size = sample.metainfo.get('ori_shape', label.shape)[:2]
    check_label_map(label, size, num_classes, ignore_index, sample)
    return label.masked_fill(label == ignore_index, UNLABELLED)


def _summarise(images: Sequence[_Counted], classes: tuple[str, ...], naming: str) -> Diagnosis:
    if not images:
        raise LabelMapError('the data set has no images, so there is nothing to measure')
    counts = {
        way: ConfusionCounts.of_images(classes, [image.pairs[way] for image in images])
        for way in images[0].pairs
    }
    if not counts[ORACLE].pixels.sum():
        raise LabelMapError(
            f'all pixels of the {len(images)} images are ignored, so there is nothing to measure'
        )
    used = np.concatenate([image.used_groups for image in images])
    return Diagnosis(counts, naming, len(images), images[0].num_groups, float(used.mean()))
