from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from pgseg_mm.text import get_templates


class CaptionPrompts(BaseTransform):
    """Base of transforms that put words of the caption into prompts.

    Every word is drawn once before any is drawn again. A caption without any is itself each of the
    prompts. Goes before :class:`TokenizeCaption`.

    Required keys: ``caption``. Added keys: ``prompts``, a list of K strings.

    Args:
        num_prompts: Prompts per caption K.
        templates: Name of a set of prompt templates, or templates with one ``{}`` each; one is
            drawn for each prompt.

    Raises:
        ValueError: ``num_prompts`` is not positive, or the templates are faulty.
    """

    def __init__(self, num_prompts: int, templates: str | Sequence[str]) -> None:
        if num_prompts < 1:
            raise ValueError(f'num_prompts must be at least 1, got {num_prompts}')
        self.num_prompts = num_prompts
        self.templates = get_templates(templates)

    @abstractmethod
    def find(self, caption: str) -> list[str]:
        """What of a caption goes into prompts."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``prompts`` to the results.

        Raises:
            KeyError: The results hold no caption.
        """
        if 'caption' not in results:
            raise KeyError(
                f"{type(self).__name__} needs 'caption' in the results; "
                'use a data set of image-text pairs such as ImageTextDataset.'
            )
        words = self.find(results['caption'])
        if words:
            results['prompts'] = [
                self.templates[template].format(words[word])
                for word, template in self._draw(len(words))
            ]
        else:
            results['prompts'] = [results['caption']] * self.num_prompts
        return results

    @cache_randomness
    def _draw(self, num_words: int) -> list[tuple[int, int]]:
        """Word and template of each prompt."""
        rounds = -(-self.num_prompts // num_words)
        order = np.concatenate([np.random.permutation(num_words) for _ in range(rounds)])
        templates = np.random.randint(len(self.templates), size=self.num_prompts)
        return list(zip(order[: self.num_prompts].tolist(), templates.tolist(), strict=True))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_prompts={self.num_prompts}, templates={self.templates})'
