"""Conversion from and to checkpoints of other code bases, and published ones by their names."""

from pgseg_mm.integration import replace_checkpoint_loaders
from pgseg_mm.serialization.locating import HUB, locate, set_locator
from pgseg_mm.serialization.runner_checkpoints import load_training_checkpoint

from .architecture import PUBLISHED, Architecture
from .conversion import Conversion, Report
from .hugging_face import hugging_face_to_mm, mm_to_hugging_face
from .published import PublishedModel, published_models
from .release import mm_to_release, release_shapes, release_to_mm
from .sources import make_local

set_locator(make_local)
# any Runner takes such names, whether or not its other checkpoints are loaded safely
replace_checkpoint_loaders({HUB: load_training_checkpoint})

__all__ = [
    'PUBLISHED',
    'Architecture',
    'Conversion',
    'PublishedModel',
    'Report',
    'hugging_face_to_mm',
    'locate',
    'mm_to_hugging_face',
    'mm_to_release',
    'published_models',
    'release_shapes',
    'release_to_mm',
]
