"""CLIP's byte-pair tokens for captions and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from open_clip.tokenizer import SimpleTokenizer


@lru_cache(maxsize=1)
def _clip_tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> torch.Tensor:
    """Turn texts into CLIP's token ids.

    A row is the start token (49406), the words, the end token (49407) and zeros as padding. A text
    that does not fit is cut, and its end token is kept as the last id.

    Args:
        texts: One text or T texts.
        context_length: Tokens per row, start and end token included.

    Returns:
        Ids of shape ``(T, context_length)``, int64; T is 1 for a single string.

    Raises:
        TypeError: A text is not a string.
        ValueError: ``context_length`` has no room for the start and the end token.
    """
    if context_length < 2:
        raise ValueError(
            f'context_length is {context_length}; expected at least 2, for the start and end token.'
        )
    texts = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f'Text {index} is {text!r} of type {type(text).__name__}; expected a string.'
            )
    return _clip_tokenizer()(texts, context_length=context_length)
