"""A tiny model that learns from joined images, pairs for it, and regions."""

import torch

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models import PGSeg
from pgseg_mm.models.layers.regions import RegionLayout
from pgseg_mm.text import tokenize

CAPTIONS = ['a dog', 'a cat on grass', 'two birds', 'a red fox', 'the sky', 'a car', 'mud', 'a bee']
PASTES = dict(augments=[dict(type='PasteImages', grid=4, sizes=(2,))], probs=[1.0])
MOSAICS = dict(augments=[dict(type='MosaicImages')], probs=[1.0])


def region_model(
    augments=PASTES, prompts: bool | str = False, texts=True, backbone=None, **kwargs
) -> PGSeg:
    """A model in training, by default with pastes and the NPR of words; noise is off.

    Args:
        augments: Config of the batch augmentation.
        prompts: Type of the loss of prompts, or whether there is one.
        texts: Whether NPR is of words, too.
        backbone: Settings of the backbone.
        kwargs: Settings of the model.
    """
    cfg = tiny_model_cfg()
    cfg.pop('type')
    cfg['data_preprocessor']['batch_augments'] = augments
    cfg['backbone'].update(gumbel=False, drop_path_rate=0.0, **(backbone or {}))
    cfg['decode_head']['loss_contrastive'] = {'type': 'RegionTextContrast'}
    if prompts:
        kind = prompts if isinstance(prompts, str) else 'MultiLabelContrastiveLoss'
        cfg['decode_head']['loss_multi_label'] = {'type': kind}
    if texts:
        cfg['decode_head']['text_prototypes'] = {
            'type': 'TextPrototypes',
            'num_prototypes': 3,
            'hidden_channels': 16,
        }
    return tiny_model(**cfg, **kwargs).train()


def pairs(prompts: bool = False, number: int = 8) -> dict[str, torch.Tensor]:
    """Images of noise with captions, each with two prompts of its own if asked for."""
    images = torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = tokenize(CAPTIONS[:number], context_length=16)
    if prompts:
        words = [caption.split() for caption in CAPTIONS[:number]]
        of_prompts = [tokenize([f'a {w[0]}', f'one {w[-1]}'], context_length=16) for w in words]
        tokens = torch.cat([tokens[:, None], torch.stack(of_prompts)], dim=1)
    return dict(inputs=images * 255, tokens=tokens)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Noise, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def halves(captions: list[list[int]]) -> RegionLayout:
    """Images of 8 x 8 pixels, cut into a left and a right half."""
    labels = torch.zeros(8, 8, dtype=torch.long)
    labels[:, 4:] = 1
    return RegionLayout(labels, torch.tensor(captions))
