"""From what a user asks for to a vocabulary."""

import re
from collections.abc import Sequence
from os import PathLike

from pgseg_mm.utils.vocabulary import Vocabulary

BACKGROUND = 'background'
SEPARATOR = re.compile(r'\s*(?:[,;\n]|(?<=\s)\.|\.(?=\s|$))\s*')
"""Commas, semicolons, line ends, and dots beside a blank."""

Classes = Vocabulary | str | Sequence[str | Sequence[str]]


def parse_words(text: str) -> list[str]:
    """Take apart words such as 'dog . red car . grass' or 'dog, red car, grass'.

    Args:
        text: Words separated by commas, semicolons, line ends, or dots that stand beside a blank. A
            separator at the end is no harm.

    Raises:
        ValueError: There is no word, or none between two separators.
    """
    words = [word.strip() for word in SEPARATOR.split(text.strip())]
    if not any(words):
        raise ValueError("There is no word to look for; write some, such as 'dog . red car'.")
    if words[-1] == '':
        words.pop()
    if '' in words:
        raise ValueError(
            f'There is no word between two separators in {text!r}; write one, or take a separator '
            'away.'
        )
    return words


def make_vocabulary(classes: Classes) -> Vocabulary:
    """The vocabulary of classes that a user names.

    Args:
        classes: A vocabulary, a text for :func:`parse_words`, or a list with a word, or a list of
            synonyms, for each class.

    Raises:
        ValueError: There is no class, a word is empty or stands twice, or one has a comma in it.
    """
    if isinstance(classes, Vocabulary):
        return classes
    if isinstance(classes, str):
        classes = parse_words(classes)
    words: list[tuple[str, ...]] = []
    for entry in classes:
        if not isinstance(entry, str):
            words.append(tuple(entry))
        elif ',' in entry:
            several = ', '.join(repr(word.strip()) for word in entry.split(','))
            raise ValueError(
                f'There is a comma in the class {entry!r}: write {several} for classes of their '
                f'own, or ({several}) for synonyms of one class.'
            )
        else:
            words.append((entry,))
    return Vocabulary(tuple(words))


def load_vocabulary(vocabulary: Vocabulary | str | PathLike[str]) -> Vocabulary:
    """A vocabulary as it is, or from a file or by the name of one that comes with the package."""
    if isinstance(vocabulary, Vocabulary):
        return vocabulary
    return Vocabulary.from_file(vocabulary)


def with_background(vocabulary: Vocabulary, background: bool | None) -> Vocabulary:
    """The vocabulary with the background as class 0, or without it.

    Args:
        vocabulary: The classes, which may name a background at any place.
        background: Whether there is to be a background; ``None`` for as the vocabulary has it.

    Raises:
        ValueError: There is no other class.
    """
    others = [words for words in vocabulary.words if words[0].casefold() != BACKGROUND]
    if not others:
        raise ValueError('The classes name nothing but the background; add a class.')
    if background is None:
        background = len(others) < len(vocabulary)
    words = (*[(BACKGROUND,)] * background, *others)
    return Vocabulary(words, repeats=vocabulary.repeats)
