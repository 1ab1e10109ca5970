"""What the parts and settings of a segmentor have to be."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

from mmengine.utils import to_2tuple
from torch import nn

from ..inference.decision import Decision, as_decision
from ..inference.image_geometry import whole_patches
from ..inference.pamr import as_pamr
from ..layers.whole_numbers import check_whole

WINDOW_BATCH = 8
"""Windows that are encoded at a time."""
MAX_SIDE = 2048
"""Largest number of pixels that a side may be made a multiple of, or as long as: a config that
comes with weights may ask for anything."""
TEST_SETTINGS = {
    *('mode', 'crop_size', 'stride', 'window_batch_size', 'window_divisor', 'image_divisor'),
    *('resize', 'pamr', 'decision', 'seg_logits', 'class_scores', 'groups'),
}
"""What a prediction looks at in ``test_cfg``."""
TRAIN_SETTINGS = {'micro_batch_size'}
"""What a training looks at in ``train_cfg``."""


def check_parts(model: Any) -> None:
    """Refuse parts that do not fit each other, and warn of those that hardly do.

    Raises:
        ValueError: If they do not.
    """
    _check_text_widths(model.decode_head, model.text_encoder)
    _check_pixels(model.backbone, model.data_preprocessor)
    _tell_pixels(model.backbone, model.data_preprocessor)


def _check_text_widths(head: Any, encoder: Any) -> None:
    """Refuse a head that expects other widths of texts than the text encoder gives.

    Raises:
        ValueError: If it does.
    """
    if getattr(head, 'text_projector', head) is None and not head.num_classes:
        raise ValueError(
            f'{type(head).__name__} has neither text_channels, to embed words with, nor '
            f'class_embeds in their place; set text_channels={encoder.embed_dims} in decode_head'
        )
    for name, expected, width, what in (
        (
            'text_channels',
            getattr(head, 'text_channels', None),
            encoder.embed_dims,
            'embeddings of texts',
        ),
        (
            'text_prototypes.text_dims',
            getattr(getattr(head, 'text_prototypes', None), 'text_dims', None),
            encoder.token_dims,
            'features of tokens',
        ),
    ):
        if expected not in (None, width):
            raise ValueError(
                f'decode_head.{name} is {expected}, but the {what} that '
                f'{type(encoder).__name__} makes are {width} wide; set {name}={width}'
            )


def _check_pixels(backbone: nn.Module, preprocessor: nn.Module) -> None:
    """Warn of pixels that are normalised otherwise than those the weights were trained on."""
    expected = getattr(backbone, 'pixel_statistics', None)
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if expected is None or mean is None or std is None:
        return
    given = [part.flatten() for part in (mean, std)]
    if any(
        (part - part.new_tensor(trained)).abs().max() > 1  # one number stands for all channels
        for trained, part in zip(expected, given, strict=True)
    ):
        wanted, found = (
            ' and '.join(
                f'{name}={[round(float(x), 3) for x in part]}'
                for name, part in zip(('mean', 'std'), parts, strict=True)
            )
            for parts in (expected, given)
        )
        warnings.warn(
            f'The weights of {backbone.model_name} were trained on pixels of {wanted}, but '
            f'data_preprocessor has {found}; set the former, unless a protocol wants the latter.',
            stacklevel=4,
        )


def _tell_pixels(backbone: Any, preprocessor: Any) -> None:
    """Tell a backbone that hands images on by what they were normalised."""
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if hasattr(backbone, 'set_image_statistics') and mean is not None and std is not None:
        backbone.set_image_statistics(mean.flatten().tolist(), std.flatten().tolist())


def check_regions(preprocessor: nn.Module, head: nn.Module) -> None:
    """Refuse joined images for a head that contrasts whole images.

    Raises:
        ValueError: If it does.
    """
    if getattr(preprocessor, 'batch_augments', None) is None:
        return
    if not getattr(head, 'contrasts_regions', False):
        raise ValueError(
            f'batch_augments joins images, but the loss of {type(head).__name__} knows no '
            "regions: set decode_head.loss_contrastive=dict(type='RegionTextContrast'), or "
            'batch_augments=None (a head of your own says contrasts_regions=True)'
        )


def check_train_cfg(train_cfg: dict | None, backbone: nn.Module) -> dict:
    """The settings of a training as a dict of its own.

    Raises:
        ValueError: If ``micro_batch_size`` is faulty, or nothing that the backbone takes.
    """
    cfg = dict(train_cfg or {})
    _warn_of_unknown('train_cfg', cfg, TRAIN_SETTINGS)
    if cfg.get('micro_batch_size') is not None:
        check_whole('train_cfg micro_batch_size', cfg['micro_batch_size'])
        try:
            inspect.signature(backbone.forward).bind('images', cfg['micro_batch_size'])
        except TypeError:
            raise ValueError(
                f'train_cfg has micro_batch_size, but {type(backbone).__name__} takes images '
                "alone; leave it out, or give the backbone's forward an argument micro_batch_size"
            ) from None
    return cfg


def _warn_of_unknown(what: str, cfg: dict, known: set[str]) -> None:
    if unknown := sorted(map(str, cfg.keys() - known)):
        warnings.warn(
            f'{what} has {", ".join(unknown)}, which nothing looks at; there is '
            f'{", ".join(sorted(known))}',
            stacklevel=3,
        )


def check_test_cfg(test_cfg: dict | None) -> dict:
    """The settings of a prediction as a dict of its own, with a ``mode``.

    Raises:
        ValueError: If the mode is unknown or incomplete, or another setting is faulty.
    """
    cfg = dict(test_cfg or {})
    mode = cfg.setdefault('mode', 'whole')
    _warn_of_unknown('test_cfg', cfg, TEST_SETTINGS)
    if mode not in ('whole', 'slide'):
        raise ValueError(f"test_cfg mode must be 'whole' or 'slide', got {mode!r}")
    if mode == 'slide' and not {'crop_size', 'stride'} <= cfg.keys():
        raise ValueError("test_cfg mode='slide' needs crop_size and stride, in pixels")
    if mode == 'slide':
        _check_windows(cfg['crop_size'], cfg['stride'], cfg.get('image_divisor') is not None)
    for name in ('window_batch_size', 'window_divisor', 'image_divisor'):
        number = cfg.get(name)
        if name != 'window_batch_size' and number == 'patch':
            continue
        if number is not None:
            most = MAX_SIDE if name != 'window_batch_size' else None
            check_whole(f'test_cfg {name}', number, most=most)
    resize = cfg.get('resize', 'image')
    if resize not in ('image', 'direct'):
        raise ValueError(f"test_cfg resize must be 'image' or 'direct', got {resize!r}")
    if resize == 'direct' and (mode != 'whole' or cfg.get('window_divisor') not in (None, 1)):
        raise ValueError(
            "test_cfg resize='direct' takes scores from the patches of the whole image straight to "
            "its original size; set mode='whole' and window_divisor=None, or resize='image'"
        )
    as_decision(cfg.get('decision'))
    as_pamr(cfg.get('pamr'))
    return cfg


def _check_windows(window: Any, stride: Any, images_grow: bool) -> None:
    for name, sides in (('crop_size', window), ('stride', stride)):
        pair = sides if isinstance(sides, Sequence) and len(sides) == 2 else (sides, sides)
        for side in pair:
            most = MAX_SIDE if images_grow else None
            check_whole(f'test_cfg {name}, or each side of it,', side, most=most)
    if any(step > side for step, side in zip(to_2tuple(stride), to_2tuple(window), strict=True)):
        raise ValueError(
            f'test_cfg stride={stride} is larger than crop_size={window}, so that pixels between '
            'windows would have no class; make it smaller'
        )


def window_settings(test_cfg: dict, patch_size: int) -> tuple[int | None, int]:
    """How many windows are encoded at a time, and what their sides are padded to multiples of.

    Args:
        test_cfg: What :func:`check_test_cfg` returned.
        patch_size: Side of a patch in pixels.
    """
    default = WINDOW_BATCH if test_cfg['mode'] == 'slide' else None
    divisor = test_cfg.get('window_divisor') or 1
    batch_size = test_cfg.get('window_batch_size', default)
    return batch_size, patch_size if divisor == 'patch' else divisor


def encoded_size(test_cfg: dict, patch_size: int, size: tuple[int, int]) -> tuple[int, int]:
    """Size at which an image is encoded: its own, or one that ``image_divisor`` and a patch need.

    Args:
        test_cfg: What :func:`check_test_cfg` returned.
        patch_size: Side of a patch in pixels.
        size: (height, width) of the image.
    """
    divisor = test_cfg.get('image_divisor')
    if divisor is not None:
        window = test_cfg['crop_size'] if test_cfg['mode'] == 'slide' else 0
        divisor = patch_size if divisor == 'patch' else divisor
        size = whole_patches(size, divisor, max(to_2tuple(window)))
    return max(size[0], patch_size), max(size[1], patch_size)


def set_naming(head: Any, naming: str) -> None:
    """Choose how a head's groups get their classes.

    Raises:
        ValueError: If the head has no such rule.
    """
    if not hasattr(head, 'set_naming'):
        raise ValueError(f'{type(head).__name__} names no groups, so it has no naming={naming!r}')
    head.set_naming(naming)


def check_names_groups(head: Any, decision: Decision | None, test_cfg: dict) -> None:
    """Refuse what has no groups to be named in several ways.

    Raises:
        ValueError: If the head scores patches alone, a rule decides by scores of words, or scores
            are to be resized from patches.
    """
    if test_cfg.get('resize') == 'direct':
        raise ValueError(
            "test_cfg resize='direct' resizes scores of patches, and groups are to take classes; "
            "set resize='image'"
        )
    if not hasattr(head, 'classify_among'):
        raise ValueError(
            f'{type(head).__name__} scores patches and names no groups, so nothing can be said of '
            'its groups; take a model with a PGSegHead, such as PGSeg or GroupViT'
        )
    if decision is not None:
        raise ValueError(
            'model.test_cfg.decision compares words, and groups are to take classes; set '
            'model.test_cfg.decision=None'
        )
