"""Text side of the data, and what the package needs from its surroundings.

The names are imported on first use: ``pgseg_mm.utils.dependencies`` must be importable, and say what
is missing, where torch or open_clip are not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .templates import PROMPT_TEMPLATES, get_templates
    from .tokenizer import tokenize
    from .vocabulary import Vocabulary

__all__ = ['PROMPT_TEMPLATES', 'Vocabulary', 'get_templates', 'tokenize']

_MODULES = {
    'PROMPT_TEMPLATES': 'templates',
    'Vocabulary': 'vocabulary',
    'get_templates': 'templates',
    'tokenize': 'tokenizer',
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
