"""Ways to regularise the tiny model's groups by prototypes, as options of its config.

``cfg.merge_from_dict(VARIANTS[name])`` makes one of the config of scenes
(``configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py``), or of another of its model. What options
mean is in docs/method.md, 7.4.
"""

from typing import Any

PROTOTYPES = 'model.backbone.prototypes.'
NPR = 'model.decode_head.loss_npr.'
TEXT = 'model.decode_head.text_prototypes'
APART = {f'{PROTOTYPES}temperature': 0.1, f'{PROTOTYPES}start': 'farthest'}
"""Tokens are compared by their cosine, and clustering starts at tokens far from each other."""
WORDS = {f'{TEXT}.type': 'TextPrototypes', f'{TEXT}.hidden_channels': 256}

VARIANTS: dict[str, dict[str, Any]] = {
    'no NPR': {'model.decode_head.loss_npr': None},
    'paper': {},
    'release': {
        f'{PROTOTYPES}momentum': None,
        f'{NPR}maximize': False,
        f'{NPR}rejection': 'release',
    },
    'weight 0.01': {f'{NPR}loss_weight': 0.01},
    'weight 0.5': {f'{NPR}loss_weight': 0.5},
    'from the start': {f'{NPR}begin': 0},
    'temperature': {f'{PROTOTYPES}temperature': 0.1},
    'low temperature': {f'{PROTOTYPES}temperature': 0.03},
    'farthest': APART,
    'k-means++': {**APART, f'{PROTOTYPES}start': 'kmeans++'},
    'sinkhorn': {f'{PROTOTYPES}temperature': 0.1, f'{PROTOTYPES}balance': 'sinkhorn'},
    'blocks': {f'{PROTOTYPES}source': 'blocks'},
    'blocks, farthest': {**APART, f'{PROTOTYPES}source': 'blocks'},
    'blocks, farthest, weight 0.5': {
        **APART,
        f'{PROTOTYPES}source': 'blocks',
        f'{NPR}loss_weight': 0.5,
    },
    'shared': {f'{PROTOTYPES}temperature': 0.1, f'{PROTOTYPES}shared': True},
    'shared, blocks, sinkhorn': {
        f'{PROTOTYPES}temperature': 0.1,
        f'{PROTOTYPES}shared': True,
        f'{PROTOTYPES}source': 'blocks',
        f'{PROTOTYPES}balance': 'sinkhorn',
    },
    'regions': {**APART, f'{PROTOTYPES}regions': True},
    'regions, blocks': {**APART, f'{PROTOTYPES}regions': True, f'{PROTOTYPES}source': 'blocks'},
    'T-NPR': WORDS,
    'T-NPR of each region': {**WORDS, f'{TEXT}.regions': True, f'{TEXT}.start': 'farthest'},
}
"""Options by name. Those of regions need a config that joins images; without, they are those of
whole images. All but 'from the start' begin when the config says so."""
