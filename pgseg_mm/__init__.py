"""PGSeg for OpenMMLab: importing this package registers every component in mmseg's registries."""

from .dependencies import check_dependencies, keep_mmpretrain_importable
from .version import __version__

check_dependencies()
keep_mmpretrain_importable()

from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

MODULE2PACKAGE['pgseg_mm'] = 'pgseg_mm'  # mmengine finds configs named pgseg_mm::FOLDER/FILE.py

from . import datasets, engine, evaluation, models, visualization  # noqa: E402, F401

__all__ = ['__version__']
