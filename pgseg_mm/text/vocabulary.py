"""Vocabularies: the words a segmentation class is asked for by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from os import PathLike
from pathlib import Path

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from pgseg_mm.background import has_background
from pgseg_mm.messages import described, quoted, shown

from .vocabulary_files import read_word_file

MAX_LISTED_DIFFERENCES = 3
SHIPPED = Path(__file__).parent / 'vocabularies'
SCLIP_PREFIX = 'cls_'
IMAGENET1K = 'imagenet1k'
"""Name of the vocabulary of open_clip's names for ImageNet-1k, which is no file."""


@dataclass(frozen=True)
class Vocabulary:
    """Words of every class, in label order.

    Prompt words and a data set's label names are two things: the words may be any, but their order
    and number must be those of the labels (see :meth:`check_matches`).

    Args:
        words: For each class its synonyms, the first of which is its display name. Words are
            stripped; words that differ only in case count as the same, because the tokenizer
            ignores case.
        repeats: Whether classes may share a word, as in lists of names for classification. Such
            classes score the same.

    Raises:
        ValueError: There is no class, a class has no word, a word is empty or stands twice.

    Examples:
        >>> vocabulary = Vocabulary((('background',), ('dog', 'puppy'), ('red car',)))
        >>> vocabulary.names
        ('background', 'dog', 'red car')
        >>> vocabulary.flat_words
        ('background', 'dog', 'puppy', 'red car')
        >>> vocabulary.class_index
        (0, 1, 1, 2)
    """

    words: tuple[tuple[str, ...], ...]
    repeats: bool = False

    def __post_init__(self) -> None:
        words = tuple(_stripped(synonyms, f'class {i}') for i, synonyms in enumerate(self.words))
        _check_words(words, [f'class {i}' for i in range(len(words))], repeats=self.repeats)
        object.__setattr__(self, 'words', words)

    @classmethod
    def from_names(cls, names: Sequence[str]) -> Vocabulary:
        """Make a vocabulary of one word a class.

        Args:
            names: Class names in label order, taken as they are: a comma does not split a name.
        """
        if isinstance(names, str):
            raise ValueError(
                f'Class names must be a list, got the single string {shown(repr(names))}.'
            )
        return cls(tuple((name,) for name in names))

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Vocabulary:
        """Read a vocabulary from a text file.

        Args:
            path: Name of a vocabulary that comes with the package, such as ``voc21``, or, of a
                published evaluation, ``sclip/voc21``; or path of a file: UTF-8 text with one class
                a line in label order, synonyms separated by commas, or a JSON list; see
                :func:`read_word_file`. Classes may share a word in files called ``cls_*``, as SCLIP
                has them, and in those of published evaluations. ``imagenet1k`` is open_clip's list
                of names, some of which stand for two classes.

        Raises:
            FileAccessError: The system cannot read the file.
            FileNotFoundError: There is no such file.
            ValueError: The file is not UTF-8 or empty, a line is blank or not understood, or a word
                is empty or stands twice.
        """
        name, path = path, Path(path)
        shipped = SHIPPED / f'{name}.txt'
        if not path.is_file() and name == IMAGENET1K:
            return cls(tuple((word,) for word in IMAGENET_CLASSNAMES), repeats=True)
        if not path.is_file() and shipped.is_file():
            path = shipped
        if not path.is_file():
            files = (file.relative_to(SHIPPED).with_suffix('') for file in SHIPPED.rglob('*.txt'))
            names = ', '.join(sorted([IMAGENET1K, *(file.as_posix() for file in files)]))
            raise FileNotFoundError(
                f'Vocabulary file {shown(path)} does not exist; give a text file with one class a '
                f'line, or one of those that come with the package: {names}.'
            )
        words, places = read_word_file(path)
        # SCLIP's name background by what is there, some of which are classes as well
        repeats = path.name.startswith(SCLIP_PREFIX) or _is_shipped(path)
        stripped = [
            _stripped(synonyms, place) for synonyms, place in zip(words, places, strict=True)
        ]
        _check_words(stripped, places, source=f'file {shown(path)}', repeats=repeats)
        return cls(tuple(stripped), repeats=repeats and _has_repeats(stripped))

    @classmethod
    def from_list(cls, words: Sequence[Sequence[str]]) -> Vocabulary:
        """Restore a vocabulary from what :meth:`to_list` returned."""
        restored = tuple(_stripped(each, f'class {label}') for label, each in enumerate(words))
        return cls(restored, repeats=_has_repeats(restored))

    def to_list(self) -> list[list[str]]:
        """Return the words as plain lists, fit for a checkpoint or JSON."""
        return [list(synonyms) for synonyms in self.words]

    def __len__(self) -> int:
        return len(self.words)

    @property
    def names(self) -> tuple[str, ...]:
        """Display name of every class."""
        return tuple(synonyms[0] for synonyms in self.words)

    @property
    def has_background(self) -> bool:
        """Whether class 0 is the background."""
        return has_background(self.names)

    @property
    def flat_words(self) -> tuple[str, ...]:
        """All words of all classes, class after class."""
        return tuple(word for synonyms in self.words for word in synonyms)

    @property
    def class_index(self) -> tuple[int, ...]:
        """For each word of :attr:`flat_words` the label of its class."""
        return tuple(label for label, synonyms in enumerate(self.words) for _ in synonyms)

    def labelled_words(self, skip_background: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Words to embed, and for each the number of its class among those embedded.

        Args:
            skip_background: Whether class 0 is left out, because it is found by a threshold.

        Examples:
            >>> Vocabulary((('background',), ('dog', 'puppy'))).labelled_words(True)
            (('dog', 'puppy'), (0, 0))
        """
        first = int(skip_background)
        words = tuple(word for synonyms in self.words[first:] for word in synonyms)
        return words, tuple(label - first for label in self.class_index if label >= first)

    def check_matches(self, classes: Sequence[str]) -> None:
        """Check that there are as many classes here as in a data set.

        Args:
            classes: The data set's class names in label order. The names themselves may differ.

        Raises:
            ValueError: The numbers of classes differ.
        """
        if len(self) == len(classes):
            return
        differences = [
            f'label {label}: {quoted(ours)} here, {quoted(theirs)} in the data set'
            for label, (ours, theirs) in enumerate(zip_longest(self.names, classes))
            if ours is None or theirs is None or ours.casefold() != theirs.strip().casefold()
        ]
        listed = '; '.join(differences[:MAX_LISTED_DIFFERENCES])
        raise ValueError(
            f'The vocabulary has {len(self)} classes and the data set {len(classes)}; there must '
            f'be one line for each label, in label order. First differences: {listed}.'
        )


def _stripped(synonyms: Sequence[str], place: str) -> tuple[str, ...]:
    if isinstance(synonyms, str):
        raise ValueError(
            f'The words of {place} must be a list, got the string {shown(repr(synonyms))}.'
        )
    for word in synonyms:
        if not isinstance(word, str):
            raise ValueError(f'A word of {place} is {described(word)}; expected a string.')
    return tuple(word.strip() for word in synonyms)


def _check_words(
    words: Sequence[tuple[str, ...]],
    places: Sequence[str],
    source: str = 'list of classes',
    repeats: bool = False,
) -> None:
    if not words:
        raise ValueError(f'The vocabulary is empty: the {source} names no class.')
    first_place: dict[str, str] = {}
    for synonyms, place in zip(words, places, strict=True):
        if not synonyms:
            raise ValueError(f'No word in {place}; every class needs at least one.')
        for word in synonyms:
            if not word:
                raise ValueError(f'Empty name in {place}; write a word or remove the extra comma.')
            earlier = first_place.setdefault(word.casefold(), place)
            if earlier is not place and not repeats:
                raise ValueError(
                    f'{shown(repr(word))} stands in {earlier} and in {place}; '
                    'a word may name only one class.'
                )
        if len({word.casefold() for word in synonyms}) < len(synonyms):
            raise ValueError(f'A word stands twice in {place}: {shown(", ".join(synonyms))}.')


def _is_shipped(path: Path) -> bool:
    return path.resolve().parent.parent == SHIPPED.resolve()


def _has_repeats(words: Sequence[tuple[str, ...]]) -> bool:
    """Whether classes share a word."""
    distinct = [{str(word).casefold() for word in synonyms} for synonyms in words]
    return len(set().union(*distinct)) < sum(map(len, distinct))
