"""Prompts made from the nouns of a caption."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from mmseg.registry import TRANSFORMS

from pgseg_mm import limits

from .caption_prompts import CaptionPrompts

if TYPE_CHECKING:
    from nltk.tag import PerceptronTagger
    from nltk.tokenize import NLTKWordTokenizer

TAGGER_DATA = 'averaged_perceptron_tagger_eng'
SENTENCE_END = re.compile(r'(?<=[.!?])\s+')


@TRANSFORMS.register_module()
class NounPrompts(CaptionPrompts):
    """Put nouns of the caption into prompts, for the multi-label contrast (docs/method.md, 3.2).

    Nouns are found by nltk's English tagger (Penn tags NN, NNS, NNP and NNPS). How they are drawn,
    keys and arguments are those of :class:`CaptionPrompts`.

    Args:
        num_prompts: Prompts per caption K.
        templates: Templates of the prompts.

    Raises:
        ImportError: nltk is not installed.
        LookupError: The data of nltk's tagger is not on this machine.
        ValueError: ``num_prompts`` is not positive, or the templates are faulty.
    """

    def __init__(self, num_prompts: int = 3, templates: str | Sequence[str] = 'openai80') -> None:
        super().__init__(num_prompts, templates)
        noun_finder()  # before the training starts, and before the data loader forks its workers

    def find(self, caption: str) -> list[str]:
        """Nouns of a caption; see :func:`find_nouns`."""
        return find_nouns(caption)


def find_nouns(text: str) -> list[str]:
    """Nouns of an English text, in order, each once whatever its case.

    Args:
        text: One sentence or several, of which the first ``MAX_NOUN_LETTERS`` letters are read.

    Returns:
        Words of the text that nltk tags as nouns; signs and numbers are none.

    Raises:
        ImportError: nltk is not installed.
        LookupError: The data of nltk's tagger is not on this machine.
    """
    tokenizer, tagger = noun_finder()
    nouns: dict[str, str] = {}
    for sentence in SENTENCE_END.split(text[: limits.MAX_NOUN_LETTERS]):
        for word, tag in tagger.tag(tokenizer.tokenize(sentence)):
            if tag.startswith('NN') and any(letter.isalpha() for letter in word):
                nouns.setdefault(word.lower(), word)
    return list(nouns.values())


@lru_cache(maxsize=1)
def noun_finder() -> tuple[NLTKWordTokenizer, PerceptronTagger]:
    """Tokeniser and tagger, loaded once a process: transforms stay small when they are pickled."""
    try:
        from nltk.tag import PerceptronTagger
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise ImportError(
            'NounPrompts needs nltk, which is not installed; run: pip install "pgseg-mm[nouns]"'
        ) from error
    try:
        return NLTKWordTokenizer(), PerceptronTagger()
    except LookupError as error:
        raise LookupError(
            f"NounPrompts needs the data of nltk's tagger, {TAGGER_DATA}, which is not on this "
            f'machine; run: python -m nltk.downloader {TAGGER_DATA} '
            '(without a network, copy the folder nltk_data from another machine and name it in '
            'the environment variable NLTK_DATA)'
        ) from error
