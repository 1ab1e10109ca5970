from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgseg_mm.utils.vocabulary import Vocabulary

PROMPT_BATCH = 512
"""Prompts that are embedded at a time."""


class VocabularyMixin:
    """Lets a segmentor with a text encoder know its classes by their words.

    The segmentor has ``text_encoder``, ``decode_head`` and ``templates``.
    """

    text_encoder: Any
    decode_head: Any
    templates: Sequence[str]
    vocabulary: Vocabulary | None = None
    _embedded: tuple | None = None

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str | Path) -> None:
        """Choose the classes to predict.

        They are embedded at the next prediction, and again only when the text weights have moved
        since.

        Args:
            vocabulary: A vocabulary, class names in label order, or a vocabulary file.

        Raises:
            ValueError: If names are empty or repeated, or if the head finds a background by
                threshold and class 0 is not the background.
        """
        if isinstance(vocabulary, (str, Path)):
            vocabulary = Vocabulary.from_file(vocabulary)
        elif not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.from_names(vocabulary)
        if self.decode_head.with_background:
            if not vocabulary.has_background:
                raise ValueError(
                    "background_threshold is set, so class 0 must be called 'background', got "
                    f'{vocabulary.names[0]!r}; add it or set background_threshold=None'
                )
            if len(vocabulary) < 2:
                raise ValueError('the vocabulary names nothing but the background; add a class')
        if vocabulary != self.vocabulary or (
            self._embedded is not None and self._embedded[1] != self._text_checksum()
        ):
            self._embedded = None
        self.vocabulary = vocabulary

    @torch.no_grad()
    def embed_words(self, words: Sequence[str]) -> Tensor:
        """Embed words by the prompt templates (METHOD 4).

        Args:
            words: W words or phrases.

        Returns:
            (W, D), normalised means over the templates.
        """
        prompts = [template.format(word) for word in words for template in self.templates]
        modules = (self.text_encoder, self.decode_head.text_projector)
        modes = [module.training for module in modules]
        for module in modules:
            module.eval()
        device = next(self.text_encoder.parameters()).device
        embeds = torch.cat(
            [
                self.decode_head.text_projector(
                    self.text_encoder(
                        self.text_encoder.tokenize(prompts[i : i + PROMPT_BATCH]).to(device)
                    ).eot
                )
                for i in range(0, len(prompts), PROMPT_BATCH)
            ]
        )
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
        return F.normalize(embeds.unflatten(0, (len(words), -1)).mean(dim=1), dim=-1)

    def _embed_vocabulary(self) -> None:
        if self.vocabulary is None:
            meta = getattr(self, 'dataset_meta', None) or {}
            if 'vocabulary' in meta:
                self.set_vocabulary(Vocabulary.from_list(meta['vocabulary']))
            elif meta.get('classes'):
                self.set_vocabulary(meta['classes'])
            else:
                raise RuntimeError(
                    'PGSeg has no vocabulary: call set_vocabulary with class names, set vocabulary '
                    'in the config, or add a VocabularyHook'
                )
        assert self.vocabulary is not None
        if self._embedded is not None and self._embedded[0] == self._text_versions():
            return
        first = int(self.decode_head.with_background)
        words = [
            (word, label - first)
            for word, label in zip(
                self.vocabulary.flat_words, self.vocabulary.class_index, strict=True
            )
            if label >= first
        ]
        embeds = self.embed_words([word for word, _ in words])
        self.decode_head.set_class_embeds(embeds, [label for _, label in words])
        self._embedded = (self._text_versions(), self._text_checksum())

    def _text_tensors(self) -> list[Tensor]:
        modules = (self.text_encoder, self.decode_head.text_projector)
        return [
            tensor for module in modules for tensor in (*module.parameters(), *module.buffers())
        ]

    def _text_versions(self) -> tuple:
        """Changes with every in-place change through autograd's view of the text weights."""
        return tuple(
            (tensor.data_ptr(), None if tensor.is_inference() else tensor._version)
            for tensor in self._text_tensors()
        )

    @torch.no_grad()
    def _text_checksum(self) -> tuple[float, ...]:
        """Changes with the values, even where they were written past autograd, as EMA does."""
        sums = [(t.double().sum(), t.double().square().sum()) for t in self._text_tensors()]
        return tuple(torch.tensor(sums).flatten().tolist())
