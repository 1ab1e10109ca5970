"""What the parts and settings of a segmentor have to be."""

from torch import nn


def check_text_widths(head: nn.Module, encoder: nn.Module) -> None:
    """Refuse a head that expects other widths of texts than the text encoder gives.

    Raises:
        ValueError: If it does.
    """
    for name, expected, width, what in (
        ('text_channels', head.text_channels, encoder.embed_dims, 'embeddings of texts'),
        (
            'text_prototypes.text_dims',
            getattr(head.text_prototypes, 'text_dims', None),
            encoder.token_dims,
            'features of tokens',
        ),
    ):
        if expected not in (None, width):
            raise ValueError(
                f'decode_head.{name} is {expected}, but the {what} that '
                f'{type(encoder).__name__} makes are {width} wide; set {name}={width}'
            )


def check_regions(preprocessor: nn.Module, head: nn.Module) -> None:
    """Refuse joined images for a head that contrasts whole images.

    Raises:
        ValueError: If it does.
    """
    if getattr(preprocessor, 'batch_augments', None) is None:
        return
    if not getattr(head, 'contrasts_regions', False):
        raise ValueError(
            'data_preprocessor.batch_augments joins images, but the loss of the head knows no '
            "regions; set decode_head.loss_contrastive=dict(type='RegionTextContrast'), or "
            'batch_augments=None'
        )


def check_train_cfg(train_cfg: dict | None) -> dict:
    """The settings of a training as a dict of its own.

    Raises:
        ValueError: If ``micro_batch_size`` is faulty.
    """
    cfg = dict(train_cfg or {})
    size = cfg.get('micro_batch_size')
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f'train_cfg micro_batch_size must be None or at least 1, got {size!r}')
    return cfg


def check_test_cfg(test_cfg: dict | None) -> dict:
    """The settings of a prediction as a dict of its own, with a ``mode``.

    Raises:
        ValueError: If the mode is unknown or incomplete, or ``window_batch_size`` is faulty.
    """
    cfg = dict(test_cfg or {})
    mode = cfg.setdefault('mode', 'whole')
    if mode not in ('whole', 'slide'):
        raise ValueError(f"test_cfg mode must be 'whole' or 'slide', got {mode!r}")
    if mode == 'slide' and not {'crop_size', 'stride'} <= cfg.keys():
        raise ValueError("test_cfg mode='slide' needs crop_size and stride, in pixels")
    size = cfg.get('window_batch_size')
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(
            f'test_cfg window_batch_size must be None or an integer of at least 1, got {size!r}'
        )
    return cfg
