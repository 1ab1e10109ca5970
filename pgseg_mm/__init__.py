"""PGSeg for OpenMMLab: importing this package registers every component in mmseg's registries."""

from .dependencies import check_dependencies
from .integration import apply_on_import
from .version import __version__

check_dependencies()
apply_on_import()

from . import datasets, engine, evaluation, models, visualization  # noqa: E402, F401

__all__ = ['__version__']
