"""Checkpoints of other code bases: safe loading, and conversion in both directions."""

from .architecture import PUBLISHED, Architecture
from .conversion import Conversion, Report
from .errors import CheckpointError
from .hugging_face import hugging_face_to_mm, mm_to_hugging_face
from .loading import Checkpoint, load_checkpoint, load_file_safely
from .release import mm_to_release, release_shapes, release_to_mm

__all__ = [
    'PUBLISHED',
    'Architecture',
    'Checkpoint',
    'CheckpointError',
    'Conversion',
    'Report',
    'hugging_face_to_mm',
    'load_checkpoint',
    'load_file_safely',
    'mm_to_hugging_face',
    'mm_to_release',
    'release_shapes',
    'release_to_mm',
]
