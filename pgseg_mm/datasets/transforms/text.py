"""Transforms of captions."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from pgseg_mm.text import tokenize


@TRANSFORMS.register_module()
class TokenizeCaption(BaseTransform):
    """Turn the caption, and prompts if there are any, into token ids, CLIP's by default.

    Required keys: ``caption``. Added keys: ``tokens``, int64 of shape ``(L,)``, or ``(1 + K, L)``
    with the caption first where the results hold K ``prompts`` (see :class:`CaptionPrompts`).

    Args:
        context_length: Tokens per caption L; a longer caption is cut and keeps its end token. By
            default as many as the text encoder takes, 77 for CLIP.
        model: Name of the open_clip model whose tokenizer to use, as in
            :class:`OpenCLIPTextEncoder`.
    """

    def __init__(self, context_length: int | None = None, model: str | None = None) -> None:
        self.context_length = context_length
        self.model = model

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``tokens`` to the results.

        Raises:
            KeyError: The results hold no caption.
        """
        if 'caption' not in results:
            raise KeyError(
                "TokenizeCaption needs 'caption' in the results; "
                'use a data set of image-text pairs such as ImageTextDataset.'
            )
        texts = [results['caption'], *results.get('prompts', ())]
        tokens = tokenize(texts, self.context_length, self.model)
        results['tokens'] = tokens if 'prompts' in results else tokens[0]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(context_length={self.context_length}, model={self.model!r})'
