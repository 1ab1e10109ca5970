import unicodedata
from collections.abc import Sequence

import regex
from mmseg.registry import TRANSFORMS

from pgseg_mm import limits
from pgseg_mm.text import Vocabulary

from .caption_prompts import CaptionPrompts


@TRANSFORMS.register_module()
class NamePrompts(CaptionPrompts):
    """Put those names of a vocabulary that the caption has into prompts (docs/method.md, 3.2).

    As :class:`NounPrompts`, where it is known beforehand what is to be told apart: no tagger is
    needed, and names may be of several words and of any language that puts spaces between words.
    Names are found as whole words, in any case, the longest first: a hot dog is no dog. Plurals are
    other words. How they are drawn, and keys, are those of :class:`CaptionPrompts`.

    Args:
        names: Names, or a vocabulary as :meth:`Vocabulary.from_file` reads it: one that comes with
            the package, such as ``coco_object_synonyms``, or a file. Each synonym is a name; a
            background in the first place is none.
        num_prompts: Prompts per caption K.
        templates: Templates of the prompts.

    Raises:
        FileNotFoundError: There is no such vocabulary.
        FileAccessError: The system cannot read its file.
        ValueError: There are no names, they are no vocabulary, ``num_prompts`` is not positive, or
            the templates are faulty.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        num_prompts: int = 3,
        templates: str | Sequence[str] = 'openai80',
    ) -> None:
        super().__init__(num_prompts, templates)
        vocabulary = _read(names) if isinstance(names, str) else Vocabulary.from_names(names)
        words, _ = vocabulary.labelled_words(skip_background=vocabulary.has_background)
        if not words:
            raise ValueError(f'NamePrompts needs names, but there is a background only: {names}')
        self.names = {_plain(word): word for word in words}
        longest_first = sorted(self.names, key=len, reverse=True)
        known = '|'.join(regex.escape(name) for name in longest_first)
        # marks, such as vowel signs, belong to the letter before them
        self.pattern = regex.compile(rf'(?<![\w\p{{M}}])(?:{known})(?![\w\p{{M}}])')

    def find(self, caption: str) -> list[str]:
        """Names in a caption, in order, each once and as the vocabulary writes it.

        Args:
            caption: Its first ``MAX_NOUN_LETTERS`` letters are read.
        """
        found = self.pattern.findall(_plain(caption[: limits.MAX_NOUN_LETTERS]))
        return [self.names[name] for name in dict.fromkeys(found)]


def _read(names: str) -> Vocabulary:
    try:
        return Vocabulary.from_file(names)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'NamePrompts cannot read its names, {names}; if they belong to a data set, make that '
            f'first, or check the path: {error}'
        ) from error


def _plain(text: str) -> str:
    """A text as it is compared: without case, and with one space between words."""
    return ' '.join(unicodedata.normalize('NFC', text.casefold()).split())
