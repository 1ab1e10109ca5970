"""What training_step.py compares: training steps of our models and of transformers' GroupViT."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import pgseg_mm  # noqa: F401, registers the components
from pgseg_mm.engine.hooks.compile_hook import compile_parts

from .groupvit_peer import PEER, load_peer, peer_config

OPTIONS = {
    'plain': 'float32, fused attention',
    'unfused': 'attention not fused',
    'checkpointing': 'activation checkpointing (with_cp)',
    'compile': 'torch.compile (--compile)',
    'bf16': 'bf16 autocast',
    'bf16-compile': 'bf16 autocast, torch.compile',
    'fused-adamw': 'AdamW(fused=True)',
}
PEER_OPTIONS = ('plain', 'bf16', 'fused-adamw')
START, END = 49406, 49407


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
    images = torch.randn(settings.batch, model.backbone.get('in_channels', 3), side, side)
    ids = torch.zeros(settings.batch, tokens, dtype=torch.long)
    for row in ids:
        count = int(torch.randint(3, settings.words + 1, (), generator=generator))
        row[: count + 2] = torch.randint(1, START, (count + 2,), generator=generator)
        row[0], row[count + 1] = START, END
    return images.to(settings.device), ids.to(settings.device)


class Model:
    """A model with its optimizer, in one of the ways to train it."""

    def __init__(self, case: Case, settings: Settings) -> None:
        cfg = Config.fromfile(case.config)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        torch.manual_seed(0)
        self.module, self.loss = (self._peer if case.peer else self._ours)(cfg, case.option)
        self.module.train().to(settings.device)
        if 'compile' in case.option:
            compile_parts(self.module, settings.backend)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=1e-4, fused=case.option == 'fused-adamw'
        )

    @staticmethod
    def _ours(cfg: Config, option: str) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
        if option == 'checkpointing':
            cfg.merge_from_dict(
                {'model.backbone.with_cp': True, 'model.text_encoder.with_cp': True}
            )
        model = MODELS.build(cfg.model)

        def loss(images: Tensor, tokens: Tensor) -> Tensor:
            return model.parse_losses(model(images, tokens=tokens, mode='loss'))[0]

        return model, loss

    @staticmethod
    def _peer(cfg: Config, option: str) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
        module = load_peer()
        if module is None:
            raise ImportError('transformers is not installed')
        model = module.GroupViTModel(peer_config(cfg.model))

        def loss(images: Tensor, tokens: Tensor) -> Tensor:
            return model(input_ids=tokens, pixel_values=images, return_loss=True).loss

        return model, loss


def training_step(model: Model, case: Case, settings: Settings) -> Callable[[], None]:
    """Forward, backward and optimizer step on one batch, which stays the same."""
    images, tokens = make_batch(case.config, settings, case.tokens)
    bf16 = case.option.startswith('bf16')

    def step() -> None:
        attention = (
            sdpa_kernel(SDPBackend.MATH) if case.option == 'unfused' else contextlib.nullcontext()
        )
        with attention, torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            loss = model.loss(images, tokens)
        loss.backward()
        model.optimizer.step()
        model.optimizer.zero_grad()

    return step


def training_steps(cases: list[Case], settings: Settings) -> Iterator[tuple[Case, Callable]]:
    """Steps of all cases; those that train alike share a model."""
    models: dict[tuple, Model] = {}
    for case in cases:
        alike = 'plain' if case.option in ('unfused', 'bf16') else case.option
        key = (case.peer, case.config, alike)
        if key not in models:
            models[key] = Model(case, settings)
        yield case, training_step(models[key], case, settings)
