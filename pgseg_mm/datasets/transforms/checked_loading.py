"""Loading for evaluation: a damaged file is named, and label maps in colours are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations as SegLoadAnnotations

from pgseg_mm.files.reading import DamagedFileError, UnusableFile, is_of_system, read_file, retrying
from pgseg_mm.messages import shown

from .loading import DecodeImage, UnreadableImage
from .wide_annotations import IGNORED, LoadLabelMap, read_label_map

IMAGE, LABELS = 'image', 'label map'
AMBIGUOUS = -2
"""What a table of colours has for those of several classes, as palettes of many classes do."""
LFS_POINTER = b'version https://git-lfs'
MARKUP = (b'<!doctype', b'<html', b'<?xml')


def check_loading(dataset: Any) -> None:
    """Let the transforms of a data set that load files name those that are damaged.

    Those of the data sets inside wrappers, and of test-time augmentation, are reached, too; sets of
    image-text pairs skip or name such files themselves. Label
    maps that mmseg's ``LoadAnnotations`` reads may then be RGB images in the colours of the data
    set's palette.

    Args:
        dataset: The data set, changed in place.
    """
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None:
            check_loading(inner)
    if hasattr(dataset, 'pipeline') and not hasattr(dataset, 'skip_broken'):
        # mmseg's MultiImageMixDataset has a list
        transforms = getattr(dataset.pipeline, 'transforms', dataset.pipeline)
        _check_transforms(transforms, dataset)


def has_labels(dataset: Any) -> bool:
    """Whether a data set has any label map; one that does not tell is taken to have them."""
    parts = _parts(dataset)
    if not parts:
        return True
    return any(
        '://' in (path := part.get_data_info(index).get('seg_map_path', '')) or os.path.exists(path)
        for part in parts
        for index in range(len(part))
        if part.get_data_info(index).get('seg_map_path')
    )


def listed_files(dataset: Any, key: str) -> list[str]:
    """Paths that the data sets of mmseg within wrappers list, in their order.

    Args:
        dataset: The data set.
        key: ``'img_path'`` or ``'seg_map_path'``.
    """
    infos = (part.get_data_info(i) for part in _parts(dataset) for i in range(len(part)))
    return [info[key] for info in infos if info.get(key)]


def loads_labels(dataset: Any) -> bool:
    """Whether a transform of the data sets of mmseg within wrappers loads label maps."""
    return any(_loads_labels(each) for part in _parts(dataset) for each in part.pipeline.transforms)


def leave_out_labels(dataset: Any) -> None:
    """Take the loading of label maps out of the transforms of a data set, in place."""
    for part in _parts(dataset):
        _leave_out(part.pipeline)


def _leave_out(pipeline: Any) -> None:
    for transform in pipeline.transforms:
        for inner in getattr(transform, 'subroutines', None) or ():
            _leave_out(inner)
    kept = [transform for transform in pipeline.transforms if not _loads_labels(transform)]
    pipeline.transforms = kept


def _loads_labels(transform: Any) -> bool:
    return isinstance(getattr(transform, 'load', transform), LoadAnnotations | _ColourLoading)


def _parts(dataset: Any) -> list[BaseSegDataset]:
    """The data sets of mmseg within wrappers."""
    if isinstance(dataset, BaseSegDataset):
        return [dataset]
    inner = (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ()))
    return [part for one in inner if one is not None for part in _parts(one)]


def _check_transforms(transforms: list[Any], dataset: Any) -> None:
    for number, transform in enumerate(transforms):
        for inner in getattr(transform, 'subroutines', None) or ():  # TestTimeAug
            _check_transforms(inner.transforms, dataset)
        name = shown(type(dataset).__name__)
        if type(transform) is SegLoadAnnotations:  # named by its class, or by another scope
            transform = _known_labels(transform)
        if type(transform) is LoadLabelMap:
            transforms[number] = _NamedLoading(_ColourLoading(transform, dataset), LABELS, name)
        elif isinstance(transform, LoadAnnotations):
            transforms[number] = _NamedLoading(transform, LABELS, name)
        elif type(transform) is LoadImageFromFile and transform.file_client_args is None:
            transforms[number] = _NamedLoading(_decoding(transform), IMAGE, name)
        elif isinstance(transform, LoadImageFromFile):
            transforms[number] = _NamedLoading(transform, IMAGE, name)


def _known_labels(load: SegLoadAnnotations) -> LoadLabelMap:
    """The same loading of label maps, of the known formats only."""
    return LoadLabelMap(
        reduce_zero_label=load.reduce_zero_label,
        backend_args=load.backend_args,
        imdecode_backend=load.imdecode_backend,
    )


def _decoding(load: LoadImageFromFile) -> DecodeImage:
    """The same loading of images, of the known formats only, and of none that are cut off."""
    return DecodeImage(
        to_float32=load.to_float32,
        color_type=load.color_type,
        imdecode_backend=load.imdecode_backend,
        ignore_empty=load.ignore_empty,
        backend_args=load.backend_args,
    )


class _NamedLoading:
    """A transform whose errors name the file and its data set."""

    def __init__(self, load: Any, kind: str, dataset: str) -> None:
        self.load, self._kind, self._dataset = load, kind, dataset

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        path = results.get('seg_map_path' if self._kind == LABELS else 'img_path')
        if path is None:
            return self.load(results)
        name = f'The {self._kind} {shown(path)} of the data set {self._dataset}'
        fields = list(results.get('seg_fields', ()))

        def load() -> dict[str, Any] | None:
            results['seg_fields'] = list(fields)
            return self.load(results)

        try:
            loaded = retrying(load, name, is_of_system)
            if self._kind == LABELS and loaded is not None:
                _check_labels(loaded)
            return loaded
        except FileNotFoundError as error:
            raise DamagedFileError(f'{name} does not exist.') from error
        except (DamagedFileError, MemoryError):
            raise
        except Exception as error:  # each decoder fails in its own ways
            if is_of_system(error):
                raise
            why = error.reason if isinstance(error, UnreadableImage | UnusableFile) else str(error)
            raise DamagedFileError(
                f'{name} cannot be used: {_what_it_is(path) or shown(why)}. Replace the file, or '
                'take it out of the data set.'
            ) from error

    def __repr__(self) -> str:
        return repr(self.load)


def _check_labels(results: dict[str, Any]) -> None:
    """Refuse a label map of another size than its image."""
    labels, size = results.get('gt_seg_map'), results.get('ori_shape')
    if not isinstance(labels, np.ndarray) or labels.ndim != 2:
        return
    if size is not None and labels.shape != tuple(size[:2]):
        raise UnusableFile(
            f'it is of {labels.shape} pixels (height, width) and its image of {tuple(size[:2])}; '
            'they do not belong together'
        )


class _ColourLoading:
    """mmseg's ``LoadAnnotations``, and label maps in the colours of the palette."""

    def __init__(self, load: LoadLabelMap, dataset: Any) -> None:
        self._load = load
        meta = dataset.metainfo
        palette, classes = meta.get('palette') or (), meta.get('classes') or ()
        label_map = meta.get('label_map')
        if label_map:  # classes that were left out keep their colours
            palette = type(dataset).METAINFO.get('palette', ())
            self._labels = tuple(label_map.get(label, IGNORED) for label in range(len(palette)))
        else:
            self._labels = tuple(range(min(len(palette), len(classes))))
        self._colours = tuple(tuple(int(value) for value in colour) for colour in palette)
        self._classes = tuple(type(dataset).METAINFO.get('classes', ()) if label_map else classes)
        self._zero_is_ignored = bool(meta.get('reduce_zero_label'))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        if 'seg_map_path' not in results:  # mmseg's inference_model
            return results
        path = results['seg_map_path']
        image = read_label_map(path, self._load.imdecode_backend, self._load.backend_args)
        if image.ndim == 2 or image.shape[2] == 1:
            return self._load(results)
        results['gt_seg_map'] = self._by_colour(image)
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def _by_colour(self, image: np.ndarray) -> np.ndarray:
        if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
            raise UnusableFile(
                f'it has the shape {image.shape} and the type {image.dtype}; expected one channel'
            )
        blue, green, red = (image[..., n].astype(np.uint32) for n in range(3))
        labels = _table(self._colours, self._labels, self._zero_is_ignored)[
            red << 16 | green << 8 | blue
        ]
        unknown = labels < 0
        if unknown.any():
            row, column = np.argwhere(unknown)[0]
            colour = tuple(int(value) for value in image[row, column, 2::-1])
            if labels[row, column] == AMBIGUOUS:
                places = [n for n, each in enumerate(self._colours) if each == colour]
                names = [f'{n} ({name})' for n, name in enumerate(self._classes) if n in places]
                raise UnusableFile(
                    f'it is an RGB image, and its colour {colour} is that of several classes, '
                    f'{" and ".join(names)}; save it with one channel of labels'
                )
            raise UnusableFile(
                f'it is an RGB image, and its colour {colour} is not in the palette of the data '
                'set; save it with one channel of labels, or give metainfo the right palette'
            )
        return labels.astype(np.uint8)


@lru_cache(maxsize=2)
def _table(
    colours: Sequence[tuple[int, int, int]], labels: Sequence[int], zero_is_ignored: bool
) -> np.ndarray:
    """Label of each colour, red * 65536 + green * 256 + blue; -1 for those that have none, and
    :data:`AMBIGUOUS` for those that have several.
    """
    table = np.full(2**24, -1, np.int16)
    if zero_is_ignored:
        table[0] = IGNORED
    seen: dict[int, int] = {}
    for (red, green, blue), label in zip(colours, labels, strict=False):
        colour = red << 16 | green << 8 | blue
        table[colour] = label if seen.setdefault(colour, label) == label else AMBIGUOUS
    return table


def _what_it_is(path: str) -> str | None:
    """What a file seems to be, by its first bytes."""
    try:
        head = read_file(path, shown(path))[:512].lstrip().lower()
    except (OSError, ValueError):
        return None
    if not head:
        return 'it is empty'
    if head.startswith(LFS_POINTER):
        return 'it is a pointer of Git LFS, not the file; run git lfs pull'
    return 'it is a web page, not an image' if head.startswith(MARKUP) else None
