"""Words: vocabularies, prompt templates and token ids."""

from .templates import PROMPT_TEMPLATES, get_templates
from .tokenizer import tokenize
from .vocabulary import Vocabulary

__all__ = ['PROMPT_TEMPLATES', 'Vocabulary', 'get_templates', 'tokenize']
