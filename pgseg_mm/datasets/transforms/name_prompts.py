import re
from collections.abc import Sequence

from mmseg.registry import TRANSFORMS

from pgseg_mm.text import Vocabulary

from .caption_prompts import CaptionPrompts


@TRANSFORMS.register_module()
class NamePrompts(CaptionPrompts):
    """Put those names of a vocabulary that the caption has into prompts (docs/method.md, 3.2).

    As :class:`NounPrompts`, where it is known beforehand what is to be told apart: no tagger is
    needed, and names may be of several words, of any part of speech and language. Names are found
    as whole words, in any case, the longest first: a hot dog is no dog. Plurals are other words.

    Args:
        names: Names, or a vocabulary as :meth:`Vocabulary.from_file` reads it: one that comes with
            the package, such as ``coco_object_synonyms``, or a file. Each synonym is a name.
        num_prompts: Prompts per caption K.
        templates: Name of a set of prompt templates, or templates with one ``{}`` each; one is
            drawn for each prompt.

    Raises:
        ValueError: There are no names, they are no vocabulary, ``num_prompts`` is not positive, or
            the templates are faulty.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        num_prompts: int = 3,
        templates: str | Sequence[str] = 'openai80',
    ) -> None:
        vocabulary = (
            Vocabulary.from_file(names) if isinstance(names, str) else Vocabulary.from_names(names)
        )
        self.names = {name.lower(): name for name in vocabulary.flat_words}
        longest_first = sorted(self.names, key=len, reverse=True)
        known = '|'.join(map(re.escape, longest_first))
        self.pattern = re.compile(rf'(?<!\w)({known})(?!\w)')
        super().__init__(num_prompts, templates)

    def find(self, caption: str) -> list[str]:
        """Names in a caption, in order, each once and as the vocabulary writes it."""
        found = self.pattern.findall(caption.lower())
        return [self.names[name] for name in dict.fromkeys(found)]
