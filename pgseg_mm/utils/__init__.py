"""Words and prompts; the modules ``dist`` and ``launch`` serve several ranks."""

from .templates import PROMPT_TEMPLATES, get_templates
from .tokenizer import tokenize
from .vocabulary import Vocabulary

__all__ = ['PROMPT_TEMPLATES', 'Vocabulary', 'get_templates', 'tokenize']
