from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from open_clip.hf_model import HFTextEncoder
from open_clip.model import _build_text_tower
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from torch import Tensor, nn
from torch.func import functional_call

from pgseg_mm.errors import ModelUnavailableError
from pgseg_mm.serialization.open_clip_weights import load_text_tower
from pgseg_mm.text.open_clip_models import find_open_clip_model
from pgseg_mm.text.tokenizer import tokenize

from ..layers import OpenCLIPTower
from .pgseg_text_transformer import TextFeatures


@MODELS.register_module()
class OpenCLIPTextEncoder(OpenCLIPTower):
    """Text tower of any open_clip model; no image tower is built.

    Captions must be tokenised for the same model: ``TokenizeCaption(model=...)``. Models with
    CLIP's own tokenizer, the most, need nothing but the default.

    Args:
        model_name: A name that ``open_clip.list_models()`` lists, such as ``ViT-B-32``, or
            ``local-dir:FOLDER`` or ``hf-hub:ORGANISATION/REPOSITORY`` for the architecture and
            tokenizer of an open_clip model there.
        pretrained: Weights to start from: one of open_clip's tags for the model or
            ``hf-hub:ORGANISATION/REPOSITORY``, downloaded if need be, or a file with the state dict
            of the whole model or of its text tower.
            ``None`` initialises at random, towers from Hugging Face too. OpenAI's weights belong
            to the names with ``-quickgelu``.
        trainable_layers: Number of transformer blocks, counted from the last, to train together
            with the final layer norm and the projection; ``None`` trains the whole tower, 0
            freezes it.
        with_cp: Whether to recompute activations in the backward pass to save memory.
        init_cfg: Config of mmengine's weight initialisation.

    Attributes:
        context_length: Largest number of tokens.
        embed_dims: Channels of the end-token feature, which is the model's joint space with images.
        token_dims: Channels of the token features.

    Raises:
        FileNotFoundError: If ``pretrained`` is a path without a file.
        ValueError: If the model or the tag is unknown, the tower has no feature for a whole text,
            the weights do not fit, or ``trainable_layers`` is not a number of its blocks.
        RuntimeError: If a tower from Hugging Face, or the weights of a tag, cannot be had.
    """

    tower: Any  # open_clip's TextTransformer or HFTextEncoder
    behind_blocks = ('ln_final', 'text_projection')

    def __init__(
        self,
        model_name: str = 'ViT-B-32',
        pretrained: str | None = None,
        trainable_layers: int | None = None,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.model_name, config = find_open_clip_model(model_name)
        quick_gelu = config.get('quick_gelu', False)
        self.context_length = config['text_cfg'].get('context_length', DEFAULT_CONTEXT_LENGTH)
        self.tower = _build_tower(self.model_name, config, quick_gelu)
        self.embed_dims = config['embed_dim']
        if isinstance(self.tower, HFTextEncoder):
            self.token_dims = self.tower.config.hidden_size
            depth = self.tower.config.num_hidden_layers
        else:
            self.token_dims = self.tower.transformer.width
            depth = len(self.tower.transformer.resblocks)
            if self.tower.text_projection is None:
                self.embed_dims = self.token_dims
        self.is_pretrained = pretrained is not None
        if pretrained is not None:
            load_text_tower(self.tower, self.model_name, str(pretrained), quick_gelu)
        if with_cp:
            self.tower.set_grad_checkpointing()
        self.train_last(trainable_layers, depth)

    def _freeze_in_part(self, number: int) -> None:
        if not isinstance(self.tower, HFTextEncoder):
            super()._freeze_in_part(number)
            return
        try:
            self.tower.lock(number)
        except KeyError as error:
            raise ValueError(
                f'open_clip does not know the blocks of the {self.tower.config.model_type} in '
                f'{self.model_name}, so it cannot be frozen in part; use trainable_layers=None or 0'
            ) from error

    def tokenize(self, texts: str | list[str]) -> Tensor:
        """Turn T texts into (T, context_length) token ids, as the model was trained with.

        Raises:
            RuntimeError: If the model's tokenizer is not part of open_clip and cannot be had.
        """
        return tokenize(texts, self.context_length, self.model_name)

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """Encode texts.

        Args:
            token_ids: (B, L) ids by :meth:`tokenize`. Columns of nothing but zeros may be cut at
                the end; that does not change the features.

        Returns:
            End-token features (B, ``embed_dims``) after the tower's projection, and features of
            the L tokens (B, L, ``token_dims``) after the final layer norm, with their mask.

        Raises:
            ValueError: If L exceeds ``context_length``.
        """
        length = token_ids.shape[1]
        if length > self.context_length:
            raise ValueError(
                f'texts of {length} tokens exceed context_length={self.context_length} of '
                f'{self.model_name}; tokenise them for this model'
            )
        if isinstance(self.tower, HFTextEncoder):
            return self._encode_hf(token_ids)
        return TextFeatures(*self._encode(token_ids), self._mask(token_ids))

    def _encode(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        tower = self.tower
        length = token_ids.shape[1]
        has_class_token = tower.cls_emb is not None
        if (
            tower.attn_mask is not None
            and not has_class_token
            and tower.pool_type in ('argmax', 'eos')
        ):  # what stands behind the end token plays no part; the tower's mask is of full length
            causal = {'attn_mask': tower.attn_mask[:length, :length]}
            return functional_call(tower, causal, (token_ids,))
        eot, tokens = tower(F.pad(token_ids, (0, self.context_length - length)))
        tokens = tokens[:, :length]
        # CoCa's tower normalises nothing but its class token
        return eot, tower.ln_final(tokens) if has_class_token else tokens

    def _encode_hf(self, token_ids: Tensor) -> TextFeatures:
        """As the tower's own forward, which drops a token where it pools the first."""
        tower = self.tower
        attention = (token_ids != tower.config.pad_token_id).long()
        out = tower.transformer(input_ids=token_ids, attention_mask=attention)
        eot = tower.proj(tower.pooler(out, attention))
        return TextFeatures(eot, out.last_hidden_state, attention.bool())

    def _mask(self, token_ids: Tensor) -> Tensor:
        """True for start, words and end."""
        position = torch.arange(token_ids.shape[1], device=token_ids.device)
        if self.tower.pool_type == 'argmax':
            return position <= token_ids.argmax(dim=1, keepdim=True)
        if self.tower.pool_type == 'eos':
            return position <= (token_ids == self.tower.eos_id).int().argmax(dim=1, keepdim=True)
        # The vocabularies of T5, Gemma and BERT, which all such towers of open_clip use: 0 is
        # padding, 1 the end token of the first two and SigLIP's padding behind the end
        last_word = torch.where(token_ids > 1, position, -1).amax(dim=1, keepdim=True)
        return (position <= last_word) | ((position == last_word + 1) & (token_ids == 1))


def _build_tower(model_name: str, config: dict[str, Any], quick_gelu: bool) -> nn.Module:
    text_cfg = {**config['text_cfg'], 'output_tokens': True, 'hf_model_pretrained': False}
    if text_cfg.get('pool_type') == 'none':
        raise ValueError(
            f"the text tower of {model_name} has pool_type='none': it makes no feature of a whole "
            'text; choose another model'
        )
    try:
        # Private, but what all of open_clip's models build their text tower by; the public
        # create_model would build, and for some models download, an image tower as well
        return _build_text_tower(config['embed_dim'], text_cfg, quick_gelu)
    except (ImportError, OSError, RuntimeError) as error:
        if 'hf_model_name' not in text_cfg:
            raise
        raise ModelUnavailableError(
            f'The text tower of {model_name} is built from the Hugging Face config '
            f'{text_cfg["hf_model_name"]!r}, which could not be loaded: {error}\n'
            'It needs transformers, and a network at the first use.'
        ) from error
