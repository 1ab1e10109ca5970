"""What the benchmarks of training compare: steps of our models and of transformers' GroupViT."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import pgseg_mm  # noqa: F401, registers the components
from pgseg_mm.engine.hooks.compile_hook import compile_parts

from .groupvit_peer import PEER, load_peer, peer_config

START_TOKEN, END_TOKEN = 49406, 49407


@dataclass(frozen=True)
class Option:
    """A way to train: precision of the model, and what else differs from a plain step."""

    label: str
    precision: str = 'float32'
    """``'float32'``, ``'tf32'``, ``'fp16'`` (with a gradient scaler) or ``'bf16'``."""
    compiled: bool = False
    fused: bool = False
    """Whether AdamW is the fused one."""
    checkpointing: bool = False
    unfused_attention: bool = False
    joined: tuple[tuple[str, Any], ...] = ()
    """Config of the batch augment that joins images, whose regions are contrasted then."""
    prompts: int = 0
    """Prompts beside each caption, which single groups of its regions are contrasted with; they are
    cut to their own length."""

    @property
    def weights(self) -> tuple:
        """Options that agree in this can train the same model."""
        return self.compiled, self.fused, self.checkpointing, self.joined, self.prompts


PASTES = (('type', 'PasteImages'),)
PASTED = (5 / 14, 7 / 14, 9 / 14)
"""Sides of what is pasted, as shares of the patches a side; the published size has 14 of them."""
PROMPT_TOKENS = 16
"""As many as the longest prompts have, cut apart from the captions."""
MOSAICS = (('type', 'MosaicImages'),)
OPTIONS = {
    'plain': Option('float32, fused attention'),
    'unfused': Option('attention not fused', unfused_attention=True),
    'checkpointing': Option('activation checkpointing (with_cp)', checkpointing=True),
    'compile': Option('torch.compile (--compile)', compiled=True),
    'bf16': Option('bf16 autocast', 'bf16'),
    'bf16-compile': Option('bf16 autocast, torch.compile', 'bf16', compiled=True),
    'fused-adamw': Option('AdamW(fused=True)', fused=True),
    'pastes': Option('regions of pastes', joined=PASTES),
    'late-interaction': Option('regions of pastes, 3 prompts', joined=PASTES, prompts=3),
    'mosaics': Option('regions of mosaics, 4 x 224 px', joined=MOSAICS),
    'small-mosaics': Option('regions of mosaics, 4 x 112 px', joined=(*MOSAICS, ('scale', 0.5))),
}
GPU_OPTIONS = {
    'float32': Option('float32', fused=True),
    'tf32': Option('TF32', 'tf32', fused=True),
    'fp16': Option('fp16 autocast', 'fp16', fused=True),
    'bf16': Option('bf16 autocast', 'bf16', fused=True),
    'bf16-loop-adamw': Option('bf16 autocast, AdamW not fused', 'bf16'),
    'bf16-checkpointing': Option(
        'bf16 autocast, activation checkpointing', 'bf16', fused=True, checkpointing=True
    ),
    'bf16-pastes': Option('bf16 autocast, regions of pastes', 'bf16', fused=True, joined=PASTES),
    'bf16-late-interaction': Option(
        'bf16 autocast, regions of pastes, 3 prompts', 'bf16', fused=True, joined=PASTES, prompts=3
    ),
    'bf16-mosaics': Option('bf16 autocast, regions of mosaics', 'bf16', fused=True, joined=MOSAICS),
    'tf32-compile': Option('TF32, torch.compile', 'tf32', fused=True, compiled=True),
    'fp16-compile': Option('fp16 autocast, torch.compile', 'fp16', fused=True, compiled=True),
    'bf16-compile': Option('bf16 autocast, torch.compile', 'bf16', fused=True, compiled=True),
}
"""The ways to train on a GPU; AdamW is fused unless they say otherwise."""
PEER_OPTIONS = ('plain', 'bf16', 'fused-adamw')


@dataclass(frozen=True)
class Settings:
    """What all contestants have in common; ``words`` is the largest number of a caption."""

    batch: int
    words: int
    threads: int
    device: str
    backend: str


@dataclass(frozen=True)
class Case:
    """A row of the table: a config's model, or the peer in its size, trained in some way."""

    config: str
    option: str
    tokens: int
    peer: bool = False

    @property
    def model(self) -> str:
        return PEER if self.peer else Path(self.config).stem


def make_batch(config: str, settings: Settings, tokens: int) -> tuple[Tensor, Tensor]:
    """Noise, and random words with zeros behind, as a tokenizer and a preprocessor make them."""
    model = Config.fromfile(config).model
    generator = torch.Generator().manual_seed(0)
    side = model.backbone.img_size
    channels = model.backbone.get('in_channels', 3)
    images = torch.randn(settings.batch, channels, side, side, device=settings.device)
    ids = torch.randint(1, START_TOKEN, (settings.batch, tokens), generator=generator)
    ends = torch.randint(4, settings.words + 2, (settings.batch, 1), generator=generator)
    places = torch.arange(tokens)
    ids = torch.where(places < ends, ids, torch.where(places == ends, END_TOKEN, 0))
    ids[:, 0] = START_TOKEN
    return images, ids.to(settings.device)


class Model:
    """A model with its optimizer, in one of the ways to train it.

    Args:
        config: Its config, or that of the size of the peer.
        option: How it trains.
        settings: What all have in common.
        peer: Whether it is transformers' GroupViT.
        cfg_options: Settings of the config to override.
    """

    def __init__(
        self,
        config: str,
        option: Option,
        settings: Settings,
        peer: bool = False,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(cfg_options or {})
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        torch.manual_seed(0)
        self.module, self.loss = (self._peer if peer else self._ours)(cfg, option)
        self.module.train().to(settings.device)
        if option.compiled:
            compile_parts(self.module, settings.backend)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=1e-4, fused=option.fused or None
        )

    @staticmethod
    def _ours(cfg: Config, option: Option) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
        if option.checkpointing:
            cfg.merge_from_dict(
                {'model.backbone.with_cp': True, 'model.text_encoder.with_cp': True}
            )
        if option.joined:
            contrast = {'type': 'RegionTextContrast'}
            cfg.merge_from_dict({'model.decode_head.loss_contrastive': contrast})
            joined = dict(option.joined)
            if joined['type'] == 'PasteImages':
                grid = cfg.model.backbone.img_size // cfg.model.backbone.patch_size
                joined.update(grid=grid, sizes=[max(round(grid * side), 1) for side in PASTED])
            cfg.model.data_preprocessor.batch_augments = {'augments': joined}
        if option.prompts:
            cfg.model.decode_head.loss_multi_label = {'type': 'LateInteractionLoss'}
        model = MODELS.build(cfg.model)
        join = getattr(model.data_preprocessor, 'batch_augments', None)

        def loss(images: Tensor, tokens: Tensor) -> Tensor:
            regions = None
            if join is not None:
                images, regions = join(images)
            prompts = None
            if option.prompts:  # beginnings of other captions, which cost as much
                others = [tokens.roll(shift + 1, 0) for shift in range(option.prompts)]
                prompts = torch.stack(others, dim=1)[..., :PROMPT_TOKENS].contiguous()
            losses = model(images, tokens=tokens, mode='loss', regions=regions, prompts=prompts)
            return model.parse_losses(losses)[0]

        return model, loss

    @staticmethod
    def _peer(cfg: Config, option: Option) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
        module = load_peer()
        if module is None:
            raise ImportError('transformers is not installed')
        model = module.GroupViTModel(peer_config(cfg.model))
        if option.checkpointing:
            model.gradient_checkpointing_enable()

        def loss(images: Tensor, tokens: Tensor) -> Tensor:
            return model(input_ids=tokens, pixel_values=images, return_loss=True).loss

        return model, loss

    def step(
        self,
        option: Option,
        images: Tensor,
        tokens: Tensor,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Callable[[], Tensor]:
        """Forward, backward and optimizer step on one batch, which stays the same.

        Args:
            option: How to train.
            images: (B, 3, H, W).
            tokens: (B, L).
            scaler: Scaler of the gradients in fp16; by default one of torch's own settings.

        Returns:
            What takes a step and returns its loss, without waiting for the device.
        """
        device = images.device.type
        half = {'fp16': torch.float16, 'bf16': torch.bfloat16}.get(option.precision)
        if scaler is None:
            scaler = torch.amp.GradScaler(device, enabled=option.precision == 'fp16')

        def step() -> Tensor:
            torch.backends.cuda.matmul.allow_tf32 = option.precision == 'tf32'
            torch.backends.cudnn.allow_tf32 = option.precision == 'tf32'
            attention = (
                sdpa_kernel(SDPBackend.MATH)
                if option.unfused_attention
                else contextlib.nullcontext()
            )
            with attention, torch.autocast(device, half, enabled=half is not None):
                loss = self.loss(images, tokens)
            scaler.scale(loss).backward()
            scaler.step(self.optimizer)
            scaler.update()
            self.optimizer.zero_grad()
            return loss.detach()

        return step


def training_steps(
    cases: list[Case], settings: Settings, options: dict[str, Option] = OPTIONS
) -> Iterator[tuple[Case, Callable[[], Tensor]]]:
    """Steps of all cases; those that train alike share a model."""
    models: dict[tuple, Model] = {}
    batches: dict[tuple, tuple[Tensor, Tensor]] = {}
    for case in cases:
        option = options[case.option]
        key = (case.peer, case.config, option.weights)
        if key not in models:
            models[key] = Model(case.config, option, settings, case.peer)
        batch = (case.config, case.tokens)
        if batch not in batches:
            batches[batch] = make_batch(case.config, settings, case.tokens)
        yield case, models[key].step(option, *batches[batch])
