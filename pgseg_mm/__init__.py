"""PGSeg for OpenMMLab: importing this package registers every component in mmseg's registries."""

from .dependencies import check_dependencies, keep_mmpretrain_importable
from .version import __version__

check_dependencies()
keep_mmpretrain_importable()

from . import datasets, engine, evaluation, models, visualization  # noqa: E402, F401

__all__ = ['__version__']
