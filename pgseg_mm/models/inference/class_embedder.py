import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from pgseg_mm.text.tokenizer import trim_padding
from pgseg_mm.text.vocabulary import Vocabulary
from pgseg_mm.version import __version__

from .embedding_cache import EmbeddingCache, describe_module, hash_of

PROMPT_BATCH = 512
"""Prompts that are embedded at a time."""
VERSIONS = [__version__, open_clip.__version__, torch.__version__]
"""Of the code that embeds."""


class _Embedded(NamedTuple):
    """What the class embeddings in the head were made from."""

    key: str
    versions: tuple


Model = TypeVar('Model', bound='VocabularyMixin')


class VocabularyMixin:
    """Lets a segmentor with a text encoder know its classes by their words.

    The segmentor is a module with ``text_encoder``, ``decode_head``, ``templates`` and
    ``test_cfg``, and may have an ``embedding_cache``.
    """

    text_encoder: Any
    decode_head: Any
    templates: Sequence[str]
    test_cfg: dict
    embedding_cache: EmbeddingCache | None = None
    _modules: dict
    vocabulary: Vocabulary | None = None
    _embedded: _Embedded | None = None

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
        self.vocabulary = vocabulary
        if self._embedded is not None:  # weights may have been written past autograd, as EMA does
            self._embedded = self._embedded._replace(versions=())

    def with_classes(
        self: Model,
        vocabulary: Vocabulary | Sequence[str] | str | Path,
        background_threshold: float | None = None,
        **test_cfg: Any,
    ) -> Model:
        """A segmentor of other classes that shares all weights with this one.

        Neither of the two notices what classes the other has. Words that this one has embedded are
        not embedded again.

        Args:
            vocabulary: A vocabulary, class names in label order, or a vocabulary file.
            background_threshold: If given, class 0 is the background; see :class:`PGSegHead`.
            **test_cfg: What differs from this one's ``test_cfg``.

        Raises:
            ValueError: As :meth:`set_vocabulary`, or if the threshold is not positive.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.decode_head = copy.copy(self.decode_head)
        other.decode_head.set_background_threshold(background_threshold)
        other.test_cfg = {**self.test_cfg, **test_cfg}
        other.set_vocabulary(vocabulary)
        return other

    @torch.no_grad()
    def embed_words(self, words: Sequence[str]) -> Tensor:
        """Embed words by the prompt templates (docs/method.md, 4).

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
                self.decode_head.text_projector(self.text_encoder(tokens.to(device)).eot)
                for tokens in self._tokens_of(prompts)
            ]
        )
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
        return F.normalize(embeds.unflatten(0, (len(words), -1)).mean(dim=1), dim=-1)

    def _tokens_of(self, prompts: Sequence[str]) -> Iterator[Tensor]:
        for i in range(0, len(prompts), PROMPT_BATCH):
            yield trim_padding(self.text_encoder.tokenize(prompts[i : i + PROMPT_BATCH]))

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
        versions = self._text_versions()
        if self._embedded is not None and self._embedded.versions == versions:
            return
        words, labels = self.vocabulary.labelled_words(self.decode_head.with_background)
        key = self._embedding_key(words, labels)
        if self._embedded is None or self._embedded.key != key:
            self.decode_head.set_class_embeds(self._find_or_embed(key, words), labels)
        self._embedded = _Embedded(key, versions)

    def _find_or_embed(self, key: str, words: Sequence[str]) -> Tensor:
        """Embeddings from the cache, or new ones that are kept there."""
        cache = self.embedding_cache
        if cache is None:
            return self.embed_words(words)
        embeds = cache.load(key, (len(words), self.decode_head.channels))
        if embeds is not None:
            return embeds.to(next(self.text_encoder.parameters()).device)
        embeds = self.embed_words(words)
        cache.save(key, embeds)
        return embeds

    def _embedding_key(self, words: Sequence[str], labels: Sequence[int]) -> str:
        """Hash of all that decides the embeddings; the same only where they are the same."""
        modules = (self.text_encoder, self.decode_head.text_projector)
        device = next(self.text_encoder.parameters()).device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        settings = [
            [words, labels, self.templates, device, str(autocast), VERSIONS],
            [describe_module(module) for module in modules],
        ]
        tokens = self.text_encoder.tokenize([*words, *self.templates])  # says which tokenizer it is
        named = [
            (name, tensor)
            for module in modules
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        ]
        return hash_of(settings, [('tokens', tokens), *named])

    def _text_versions(self) -> tuple:
        """Changes with every in-place change through autograd's view of the text weights."""
        modules = (self.text_encoder, self.decode_head.text_projector)
        return tuple(
            (tensor.data_ptr(), None if tensor.is_inference() else tensor._version)
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        )
