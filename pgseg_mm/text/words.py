"""From what a user asks for to a vocabulary."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from os import PathLike
from typing import Any

from pgseg_mm.background import BACKGROUND, is_background
from pgseg_mm.messages import MAX_QUOTED, described, quoted

from .vocabulary import Vocabulary

SEPARATOR = re.compile(r'\s*(?:[,;\n]|(?<=\s)\.|\.(?=\s|$))\s*')
"""Commas, semicolons, line ends, and dots beside a blank."""
BLANKS = re.compile(r'\s+')
MANY_BLANKS = 16

Classes = (
    Vocabulary | str | Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str] | None]
)
"""Words as a user names them; see :func:`make_vocabulary`."""
VocabularyLike = Vocabulary | Sequence[str] | str | PathLike[str]
"""A vocabulary as a config names it; see :func:`load_vocabulary`."""


def parse_words(text: str) -> list[str]:
    """Take apart words such as 'dog . red car . grass' or 'dog, red car, grass'.

    Args:
        text: Words separated by commas, semicolons, line ends, or dots that stand beside a blank. A
            separator at the end is no harm.

    Raises:
        ValueError: There is no word, or none between two separators.
    """
    # the separator's time grows with the square of the blanks in a row
    text = BLANKS.sub(_fewer_blanks, text.strip())
    words = [word.strip() for word in SEPARATOR.split(text)]
    if not any(words):
        raise ValueError("There is no word to look for; write some, such as 'dog . red car'.")
    if words[-1] == '':
        words.pop()
    if '' in words:
        raise ValueError(
            f'There is no word between two separators in {quoted(text)}; write one, or take a '
            'separator away.'
        )
    return words


def _fewer_blanks(found: re.Match[str]) -> str:
    blanks = found[0]
    if len(blanks) <= MANY_BLANKS:
        return blanks
    return '\n' if '\n' in blanks else ' '


def resolve(
    classes: Classes | None = None,
    vocabulary: VocabularyLike | None = None,
    known: Callable[[], Vocabulary | None] = lambda: None,
) -> Vocabulary:
    """The vocabulary that a user asks for, in one of two ways or not at all.

    Args:
        classes: Words as a user names them; see :func:`make_vocabulary`.
        vocabulary: Instead, a vocabulary, a file or a name; see :func:`load_vocabulary`.
        known: Finds the classes that a model or its checkpoint names, which count without both.

    Returns:
        The classes as they are; :func:`with_background` has them with a background or without.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: These are no words.
        ValueError: Both are given, or no classes are known, or classes or the file are faulty.
    """
    if classes is not None and vocabulary is not None:
        raise ValueError('Give either classes or a vocabulary, not both.')
    if vocabulary is not None:
        return load_vocabulary(vocabulary)
    if classes is not None:
        return make_vocabulary(classes)
    found = known()
    if found is not None:
        return found
    raise ValueError(
        "Neither the model nor its checkpoint names classes: give some, as classes=['dog', "
        "'red car'] or vocabulary='voc21'."
    )


def make_vocabulary(classes: Classes) -> Vocabulary:
    """The vocabulary of classes that a user names.

    Args:
        classes: A vocabulary, a text for :func:`parse_words`, a list with a word, or a list of
            synonyms, for each class, or a dict of names and their further synonyms.

    Raises:
        TypeError: These are no words.
        ValueError: There is no class, a word is empty or stands twice, or one has a comma in it.
    """
    if isinstance(classes, Vocabulary):
        return classes
    classes = _as_sequence(classes)
    words: list[tuple[str, ...]] = []
    for entry in classes:
        if not isinstance(entry, str):
            words.append(_synonyms(entry))
        elif ',' in entry:
            several = _apart(entry)
            raise ValueError(
                f'There is a comma in the class {quoted(entry)}: write {several} for classes of '
                f'their own, or ({several}) for synonyms of one class.'
            )
        else:
            words.append((entry,))
    return Vocabulary(tuple(words))


def _apart(words: str) -> str:
    """Words with commas between them, as Python has them one by one."""
    return ', '.join(repr(word.strip()) for word in words[:MAX_QUOTED].split(','))


def _as_sequence(classes: Any) -> Sequence[Any]:
    """Classes one by one, each a word or its synonyms."""
    if isinstance(classes, str):
        return parse_words(classes)
    if isinstance(classes, Mapping):
        return [_with_name(name, more) for name, more in classes.items()]
    if isinstance(classes, (bytes, bytearray, Set)) or not isinstance(classes, Iterable):
        raise TypeError(
            'classes must be a text, a list of words, or a dict of names and their synonyms, got '
            f'{type(classes).__name__}.'
        )
    return list(classes)


def _with_name(name: Any, synonyms: Any) -> tuple[str, ...]:
    if not isinstance(name, str):
        raise TypeError(
            f'a dict of classes has their names as its keys, got {name!r}; give a list of names in '
            'the order of their labels.'
        )
    if isinstance(synonyms, str) and ',' in synonyms:
        raise ValueError(
            f'There is a comma in the synonym {quoted(synonyms)} of {quoted(name)}: write '
            f'[{_apart(synonyms)}].'
        )
    more = (synonyms,) if isinstance(synonyms, str) else _synonyms(synonyms or ())
    return (name, *(word for word in more if word != name))


def _synonyms(entry: Any) -> tuple[str, ...]:
    words = tuple(entry) if isinstance(entry, (list, tuple)) else (entry,)
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f'a class is a word or a list of synonyms, got {type(word).__name__}.')
    return words


def load_vocabulary(vocabulary: VocabularyLike) -> Vocabulary:
    """The vocabulary that a config or a program names.

    Args:
        vocabulary: A vocabulary as it is, class names in label order, a file, or the name of a
            vocabulary that comes with the package.

    Raises:
        Exception: As :meth:`Vocabulary.from_names` and :meth:`Vocabulary.from_file`.
    """
    if isinstance(vocabulary, Vocabulary):
        return vocabulary
    if isinstance(vocabulary, (str, PathLike)):
        return Vocabulary.from_file(vocabulary)
    return Vocabulary.from_names(vocabulary)


def vocabulary_of_meta(meta: Mapping[str, Any] | None) -> Vocabulary | None:
    """The vocabulary of a data set's meta information, as checkpoints carry it.

    Args:
        meta: What may have ``vocabulary``, the words of each class, or else ``classes``, their
            names.

    Raises:
        ValueError: It is no list of words.
    """
    if words := _listed(meta, 'vocabulary'):
        return Vocabulary.from_list(words)
    names = _listed(meta, 'classes')
    return Vocabulary.from_names(names) if names else None


def _listed(meta: Mapping[str, Any] | None, key: str) -> list[Any]:
    """What the meta information has under a key: a list, also where it is an array."""
    found = (meta or {}).get(key)
    if isinstance(found, (str, bytes)) or found is not None and not isinstance(found, Iterable):
        raise ValueError(f'The {key} of the data set are {described(found)}; expected a list.')
    return [] if found is None else list(found)


def with_background(
    vocabulary: Vocabulary, background: bool | None, keep_words: bool = False
) -> Vocabulary:
    """The vocabulary with the background as class 0, or without it.

    Args:
        vocabulary: The classes, which may name a background at any place.
        background: Whether there is to be a background; ``None`` for as the vocabulary has it.
        keep_words: Whether a background that the vocabulary has keeps its further words.

    Raises:
        ValueError: There is no other class.
    """
    others = [words for words in vocabulary.words if not is_background(words[0])]
    if not others:
        raise ValueError('The classes name nothing but the background; add a class.')
    if background is None:
        background = len(others) < len(vocabulary)
    own = [words for words in vocabulary.words if is_background(words[0])] if keep_words else []
    words = (*(own or [(BACKGROUND,)])[: int(background)], *others)
    return Vocabulary(words, repeats=vocabulary.repeats)
