"""Words become embeddings: prompts, token ids, text encoder, projector, mean over the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgseg_mm.text.tokenizer import trim_padding
from pgseg_mm.text.vocabulary import Vocabulary
from pgseg_mm.version import __version__

from .embedding_cache import EmbeddingCache, describe_module, hash_of
from .evaluation_mode import evaluating

PROMPT_BATCH = 512
"""Prompts that are embedded at a time."""
VERSIONS = [__version__, open_clip.__version__, torch.__version__]
"""Of the code that embeds."""


class Embedded(NamedTuple):
    """Class embeddings that a head was given; see :meth:`ClassEmbedder.update`."""

    embeds: Tensor
    """As the head holds them."""
    key: str
    """Hash of all that decides them."""
    state: tuple | None
    """What is read of all that in no time; ``None`` if the rest may have changed unnoticed."""

    def in_doubt(self) -> Embedded:
        """The same, to be compared with all that decides them."""
        return self._replace(state=None)


class ClassEmbedder:
    """From words to embeddings, by a text encoder and a projector that it does not own.

    It keeps nothing but these parts, so one may be made whenever it is needed.

    Args:
        text_encoder: Module with ``tokenize`` that returns token ids, and end-token features of
            them as ``eot``.
        projector: From these features to embeddings.
        templates: Prompt templates, each with a ``{}`` for the word.
        cache: Where embeddings are kept between runs; ``None`` embeds them anew.
        normalize_prompts: Whether the embedding of each prompt has unit length before the mean over
            the templates, as SCLIP and others have it.
    """

    def __init__(
        self,
        text_encoder: Any,
        projector: nn.Module,
        templates: Sequence[str],
        cache: EmbeddingCache | None = None,
        normalize_prompts: bool = False,
    ) -> None:
        self.text_encoder = text_encoder
        self.projector = projector
        self.templates = templates
        self.cache = cache
        self.normalize_prompts = normalize_prompts

    @torch.no_grad()
    def embed_words(self, words: Sequence[str]) -> Tensor:
        """Embed words by the prompt templates (docs/method.md, 4).

        Args:
            words: W words or phrases.

        Returns:
            (W, D), normalised means over the templates.
        """
        prompts = [template.format(word) for word in words for template in self.templates]
        # whatever precision the first prediction has, all later ones get these embeddings
        device = self._device.type
        with evaluating(*self._modules), torch.autocast(device, enabled=False):
            embeds = torch.cat(
                [
                    self.projector(self.text_encoder(tokens.to(self._device)).eot)
                    for tokens in self._tokens_of(prompts)
                ]
            )
        if self.normalize_prompts:
            embeds = F.normalize(embeds, dim=-1)
        return F.normalize(embeds.unflatten(0, (len(words), -1)).mean(dim=1), dim=-1)

    def update(
        self,
        head: Any,
        vocabulary: Vocabulary,
        last: Embedded | None = None,
        skip_background: bool | None = None,
        words_apart: bool = False,
    ) -> Embedded:
        """Give a head the embeddings of its classes, unless it has them.

        Args:
            head: The head, such as :class:`PGSegHead`.
            vocabulary: The classes.
            last: What this returned the last time.
            skip_background: Whether class 0 is not embedded; by default if the head finds the
                background by threshold.
            words_apart: Whether each word is a class to the head.

        Returns:
            What the head has now.

        Raises:
            ValueError: If class 0 must be the background and is not.
        """
        if last is not None and (
            last.embeds is not head.class_embeds or last.embeds.device != self._device
        ):
            last = None  # somebody else has given the head others, or moved them or the encoder
        skip = head.with_background if skip_background is None else skip_background
        prompts = (self.templates, self.normalize_prompts)
        state = (vocabulary, skip, words_apart, prompts, self._weight_versions())
        if last is not None and last.state == state:
            return last
        check_background(vocabulary, skip)
        words, labels = vocabulary.labelled_words(skip)
        if words_apart:
            labels = tuple(range(len(words)))
        key = self._key(words, labels)
        if last is None or last.key != key:
            head.set_class_embeds(self._find_or_embed(key, words, head.channels), labels)
        return Embedded(head.class_embeds, key, state)

    def _find_or_embed(self, key: str, words: Sequence[str], channels: int) -> Tensor:
        """Embeddings from the cache, or new ones that are kept there."""
        if self.cache is None:
            return self.embed_words(words)
        embeds = self.cache.load(key, (len(words), channels))
        if embeds is not None:
            return embeds.to(self._device)
        embeds = self.embed_words(words)
        self.cache.save(key, embeds)
        return embeds

    def _key(self, words: Sequence[str], labels: Sequence[int]) -> str:
        """Hash of all that decides the embeddings; the same only where they are the same."""
        device = self._device.type
        settings = [
            [words, labels, self.templates, device, VERSIONS],
            [describe_module(module) for module in self._modules],
            *(['normalized prompts'] if self.normalize_prompts else []),
        ]
        tokens = self.text_encoder.tokenize([*words, *self.templates])  # says which tokenizer it is
        named = [
            (name, tensor)
            for module in self._modules
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        ]
        return hash_of(settings, [('tokens', tokens), *named])

    def _weight_versions(self) -> tuple:
        """Changes with every in-place change through autograd's view of the text weights."""
        return tuple(
            (tensor.data_ptr(), None if tensor.is_inference() else tensor._version)
            for module in self._modules
            for tensor in (*module.parameters(), *module.buffers())
        )

    def _tokens_of(self, prompts: Sequence[str]) -> Iterator[Tensor]:
        for i in range(0, len(prompts), PROMPT_BATCH):
            yield trim_padding(self.text_encoder.tokenize(prompts[i : i + PROMPT_BATCH]))

    @property
    def _modules(self) -> tuple[nn.Module, nn.Module]:
        return self.text_encoder, self.projector

    @property
    def _device(self) -> torch.device:
        return next(self.text_encoder.parameters()).device


def check_background(vocabulary: Vocabulary, skipped: bool) -> None:
    """Refuse classes without a background where it is found without words.

    Args:
        vocabulary: The classes.
        skipped: Whether class 0 is found by a threshold or has a constant score.

    Raises:
        ValueError: If class 0 is not the background then, or there is no other class.
    """
    if not skipped:
        return
    if not vocabulary.has_background:
        raise ValueError(
            'background_threshold or background_score is set, so class 0 must be called '
            f"'background', got {vocabulary.names[0]!r}; add it or set it to None"
        )
    if len(vocabulary) < 2:
        raise ValueError('the vocabulary names nothing but the background; add a class')
