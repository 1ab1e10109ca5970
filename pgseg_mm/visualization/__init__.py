"""Pictures of what the model sees and how it learns."""

from .diagnosis_picture import draw_diagnosis
from .loss_curve import draw_loss_curve
from .pgseg_visualizer import PGSegVisualizer
from .segmentation_picture import draw_segmentation, groups_of
from .segmentation_sheet import draw_segmentation_sheet

__all__ = [
    'PGSegVisualizer',
    'draw_diagnosis',
    'draw_loss_curve',
    'draw_segmentation',
    'draw_segmentation_sheet',
    'groups_of',
]
