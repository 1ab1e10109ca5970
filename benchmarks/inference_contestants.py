"""What inference.py compares: our models, their encoders alone, and transformers' GroupViT."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

import pgseg_mm  # noqa: F401, registers the components
from pgseg_mm.models import PGSeg
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely

from .groupvit_peer import PEER, load_peer, peer_config

SPREAD = 30.0
"""Factor of the assignment's logits of random weights, for which few groups win a patch else."""

ENCODER = 'encoder, a window at a time'
BATCHED_ENCODER = 'encoder, windows in a batch'
PREDICT = 'predict'

Size = tuple[int, int]


@dataclass(frozen=True)
class InferenceSettings:
    """What all contestants have in common; ``output_size`` is (height, width) in pixels."""

    output_size: Size
    num_classes: int
    threads: int
    device: str
    compiled: bool


@dataclass(frozen=True)
class Entry:
    """A model that takes part."""

    config: str
    checkpoint: str | None = None
    peer: bool = False


@dataclass(frozen=True)
class Contestant:
    """A way to segment, or only encode, an image."""

    model: str
    task: str
    run: Callable[[Tensor], object]
    output_size: Size | None = None


@torch.no_grad()
def model_of_entry(entry: Entry, settings: InferenceSettings) -> PGSeg:
    """Model of a config, all its classes named and embedded, none of them a background."""
    cfg = Config.fromfile(entry.config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    cfg.model.decode_head.background_threshold = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if entry.checkpoint is None:
        for stage in model.backbone.stages[:-1]:
            stage.grouping.assign.scale *= SPREAD
    else:
        load_checkpoints_safely()
        load_checkpoint(model, entry.checkpoint, map_location='cpu')
    model.to(settings.device).eval()
    model.set_vocabulary([f'class {i}' for i in range(settings.num_classes)])
    patch = model.backbone.patch_size
    model.predict(torch.zeros(1, 3, patch, patch, device=settings.device))  # embeds the classes
    if settings.compiled:
        model.backbone.compile(fullgraph=True, dynamic=False)
        for name in ('classify_groups', 'assign_pixels'):
            method = getattr(model.decode_head, name)
            setattr(model.decode_head, name, torch.compile(method, fullgraph=True, dynamic=False))
    return model


def our_contestants(entry: Entry, settings: InferenceSettings) -> Iterator[Contestant]:
    """The encoder, window by window and in one batch, and prediction at two output sizes."""
    model = model_of_entry(entry, settings)
    name = Path(entry.config).stem

    def crops(image: Tensor) -> list[Tensor]:
        return crop_windows(model, image)

    def predict(image: Tensor, size: Size) -> object:
        return model.predict(image, [SegDataSample(metainfo={'ori_shape': size})])

    yield Contestant(name, ENCODER, lambda x: [model.backbone(crop) for crop in crops(x)])
    yield Contestant(name, BATCHED_ENCODER, lambda x: model.backbone(torch.cat(crops(x))))
    yield Contestant(name, PREDICT, lambda x: predict(x, (x.shape[2], x.shape[3])))
    size = settings.output_size
    yield Contestant(name, PREDICT, lambda x: predict(x, size), size)


def crop_windows(model: PGSeg, image: Tensor) -> list[Tensor]:
    """Windows (1, 3, h, w) of an image (1, 3, H, W)."""
    windows = model.windows((image.shape[2], image.shape[3]))
    return [image[..., w.top : w.bottom, w.left : w.right] for w in windows]


def peer_contestants(entry: Entry, settings: InferenceSettings) -> Iterator[Contestant]:
    """transformers' GroupViT of the same size: its encoder, and its masks stitched plainly.

    Raises:
        ImportError: If transformers is not installed.
        ValueError: If it cannot be of the config's size.
    """
    module = load_peer()
    if module is None:
        raise ImportError('transformers is not installed')
    cfg = Config.fromfile(entry.config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    ours = MODELS.build(cfg.model)  # for its windows only
    torch.manual_seed(0)
    peer = module.GroupViTModel(peer_config(cfg.model)).to(settings.device).eval()
    embeds = torch.randn(settings.num_classes, peer.projection_dim, device=settings.device)
    embeds = F.normalize(embeds, dim=-1)

    def encode(crop: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        vision = peer.vision_model  # its forward refuses other sizes than that of training
        out = vision.encoder(
            vision.embeddings(crop, interpolate_pos_encoding=True),
            output_attentions=True,
            return_dict=True,
        )
        return vision.layernorm(out.last_hidden_state), out.attentions

    def class_scores(crop: Tensor) -> Tensor:
        """(1, K, h, w), as GroupViTModel computes ``segmentation_logits``."""
        tokens, attentions = encode(crop)
        groups = F.normalize(peer.visual_projection(tokens.flatten(0, 1)), dim=-1)
        scores = (peer.logit_scale.exp() * groups @ embeds.T).T[None]
        grouping = module.get_grouping_from_attentions(attentions, crop.shape[2:])
        return (scores @ grouping.flatten(2)).unflatten(2, crop.shape[2:])

    def segment(image: Tensor, size: Size) -> Tensor:
        scores = image.new_zeros(1, settings.num_classes, *image.shape[2:])
        count = image.new_zeros(image.shape[2:])
        for w in ours.windows((image.shape[2], image.shape[3])):
            region = (..., slice(w.top, w.bottom), slice(w.left, w.right))
            scores[region] += class_scores(image[region])
            count[region] += 1
        return F.interpolate(scores / count, size=size, mode='bilinear').argmax(dim=1)

    yield Contestant(PEER, ENCODER, lambda x: [encode(crop) for crop in crop_windows(ours, x)])
    yield Contestant(PEER, PREDICT, lambda x: segment(x, (x.shape[2], x.shape[3])))
    size = settings.output_size
    yield Contestant(PEER, PREDICT, lambda x: segment(x, size), size)


def contestants(entries: list[Entry], settings: InferenceSettings) -> list[Contestant]:
    """All contestants of some models."""
    return list(
        chain.from_iterable(
            (peer_contestants if entry.peer else our_contestants)(entry, settings)
            for entry in entries
        )
    )
