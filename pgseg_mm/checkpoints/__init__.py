"""Conversion from and to checkpoints of other code bases."""

from .architecture import PUBLISHED, Architecture
from .conversion import Conversion, Report
from .hugging_face import hugging_face_to_mm, mm_to_hugging_face
from .release import mm_to_release, release_shapes, release_to_mm

__all__ = [
    'PUBLISHED',
    'Architecture',
    'Conversion',
    'Report',
    'hugging_face_to_mm',
    'mm_to_hugging_face',
    'mm_to_release',
    'release_shapes',
    'release_to_mm',
]
