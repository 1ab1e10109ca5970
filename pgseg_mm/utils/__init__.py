"""Words and prompts have moved to :mod:`pgseg_mm.text`; this name goes with the next release."""

import warnings

from pgseg_mm.text import PROMPT_TEMPLATES, Vocabulary, get_templates, tokenize

__all__ = ['PROMPT_TEMPLATES', 'Vocabulary', 'get_templates', 'tokenize']
warnings.warn('pgseg_mm.utils is pgseg_mm.text now', DeprecationWarning, stacklevel=2)
