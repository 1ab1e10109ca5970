"""Token ids for captions and prompts: CLIP's byte-pair codes, or those of any open_clip model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer

from pgseg_mm import limits
from pgseg_mm.errors import ModelUnavailableError
from pgseg_mm.messages import quoted

from .open_clip_models import find_open_clip_model

TOKEN_STEP = 8


class BoundedTokenizer:
    """open_clip's byte-pair tokenizer, which takes no longer for a text that does not fit.

    Its time grows with the square of a word's length, and it goes through the whole text before it
    cuts the tokens. Here it ends where the tokens suffice, and a word that cannot fit is cut first.
    Texts that fit have the same tokens. Those of the latest short texts are kept, since prompts,
    and captions of a small set, come again and again.

    Args:
        tokenizer: The tokenizer, which is changed.
    """

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        self.tokenizer = tokenizer
        self.longest = max(len(token.removesuffix('</w>')) for token in tokenizer.encoder)
        self._room = 0
        self._known = lru_cache(limits.MAX_KNOWN_TEXTS)(self._encode)
        tokenizer.encode = self._encode_known  # what its other methods call

    def __call__(self, texts: list[str], context_length: int | None = None) -> torch.Tensor:
        """Ids of shape ``(T, context_length)``."""
        self._room = context_length or self.tokenizer.context_length
        return self.tokenizer(texts, context_length=context_length)

    def _encode_known(self, text: str) -> list[int]:
        known = len(text) <= limits.MAX_KNOWN_LETTERS
        return list((self._known if known else self._encode)(text, self._room))

    def _encode(self, text: str, room: int) -> tuple[int, ...]:
        tokenizer = self.tokenizer
        ids: list[int] = []
        for match in tokenizer.pat.finditer(tokenizer.clean_fn(text)):
            # no token is longer than `longest`, so what is cut off is behind the room
            word = match.group().encode('utf-8')[: self.longest * room]
            letters = ''.join(tokenizer.byte_encoder[byte] for byte in word)
            ids.extend(tokenizer.encoder[token] for token in tokenizer.bpe(letters).split(' '))
            if len(ids) >= room and tokenizer.reduction_fn is None:
                break
        if len(tokenizer.cache) > limits.MAX_TOKEN_CACHE:
            special = [tokenizer.decoder[number] for number in tokenizer.all_special_ids]
            tokenizer.cache = {token: token for token in special}
        return tuple(ids)


@lru_cache
def find_tokenizer(model: str | None) -> Callable[..., torch.Tensor]:
    """The tokenizer of an open_clip model, or CLIP's own; it is made once a process."""
    if model is None:
        return BoundedTokenizer(SimpleTokenizer())
    name, _ = find_open_clip_model(model)
    try:
        tokenizer = open_clip.get_tokenizer(name)
        return BoundedTokenizer(tokenizer) if isinstance(tokenizer, SimpleTokenizer) else tokenizer
    except (ImportError, OSError, ValueError) as error:
        raise ModelUnavailableError(
            f'The tokenizer of {model} could not be loaded: {error}\n'
            f'It is not part of open_clip. Run open_clip.get_tokenizer({name!r}) once where there '
            'is a network, with transformers installed; the files stay in the cache.'
        ) from error


def tokenize(
    texts: str | Sequence[str], context_length: int | None = None, model: str | None = None
) -> torch.Tensor:
    """Turn texts into token ids.

    By default a row holds CLIP's ids: the start token (49406), the words, the end token (49407) and
    zeros as padding. A text that does not fit is cut, and its end token is kept as the last id. Of
    one with more than ``MAX_TEXT_LETTERS`` letters the rest is not looked at.

    Args:
        texts: One text or T texts.
        context_length: Tokens per row, start and end token included; by default as many as the
            model takes, 77 for CLIP.
        model: Name of an open_clip model whose tokenizer to use, as in
            :class:`OpenCLIPTextEncoder`. Those of SigLIP and of towers from Hugging Face are
            downloaded at the first use.

    Returns:
        Ids of shape ``(T, context_length)``, int64; T is 1 for a single string.

    Raises:
        TypeError: A text is not a string.
        ValueError: ``context_length`` has no room for the start and the end token, or open_clip
            does not know the model.
        RuntimeError: The model's tokenizer is neither in the cache nor to be had.
    """
    if context_length is not None and context_length < 2:
        raise ValueError(
            f'context_length is {context_length}; expected at least 2, for the start and end token.'
        )
    texts = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f'Text {index} is {quoted(text)} of type {type(text).__name__}; expected a string.'
            )
    return find_tokenizer(model)([_cut(text) for text in texts], context_length=context_length)


def _cut(text: str) -> str:
    """The part of a text that is tokenised; of blanks any number counts as one."""
    if len(text) <= limits.MAX_TEXT_LETTERS:
        return text
    return ' '.join(text[: 16 * limits.MAX_TEXT_LETTERS].split())[: limits.MAX_TEXT_LETTERS]


def trim_padding(token_ids: torch.Tensor) -> torch.Tensor:
    """Cut the padding behind the longest text: columns of nothing but zeros.

    Text encoders take rows without them. Tokenizers that pad otherwise leave nothing to cut.

    Args:
        token_ids: Ids of shape ``(..., L)``.

    Returns:
        Ids of shape ``(..., L')``; L' is a multiple of 8 or L, so that the shapes of successive
        batches seldom differ.
    """
    used = token_ids.flatten(0, -2).any(dim=0).nonzero()
    longest = int(used.max()) + 1 if len(used) else 1
    return token_ids[..., : -(-longest // TOKEN_STEP) * TOKEN_STEP].contiguous()
