"""The rows of the ablation: what each changes in the config of scenes, as dotted options."""

from __future__ import annotations

import re
from typing import Any

from .npr_variants import VARIANTS

Options = dict[str, Any]
DATA = 'data/emoji_scenes'
"""Folder of the data in the config, in whose place the ablation's comes."""

MEAN_CONTRAST: Options = {
    'model.data_preprocessor.batch_augments': None,
    'model.decode_head.loss_contrastive.type': 'ImageTextContrastiveLoss',
    'model.decode_head.naming': 'affinity',
}
"""Images against captions by their mean group, names by the release's rule: as published."""
NO_NPR: Options = {'model.decode_head.loss_npr': None}
NO_PROTOTYPES: Options = {**NO_NPR, 'model.backbone.prototypes': None}
RELEASE_NPR: Options = {
    # nan_if_empty stays off: it changes nothing but what ends a run
    'model.backbone.prototypes.momentum': None,
    'model.decode_head.loss_npr.maximize': False,
    'model.decode_head.loss_npr.rejection': 'release',
    'model.decode_head.text_prototypes': {'type': 'ReleaseTextPrototypes'},
}
PASTE, MOSAIC = {'type': 'PasteImages'}, {'type': 'MosaicImages'}


def _regions(*augments: tuple[Options, float]) -> Options:
    """Joined images, each kind with its share of the steps; the others are plain."""
    kinds, probs = zip(*augments, strict=True)
    return {
        'model.data_preprocessor.batch_augments.augments': list(kinds),
        'model.data_preprocessor.batch_augments.probs': list(probs),
    }


PASTES = _regions((PASTE, 0.7))
MOSAICS = _regions((MOSAIC, 0.5))
BOTH = _regions((PASTE, 0.36), (MOSAIC, 0.35))


def _prompts(names: str | list[str]) -> Options:
    """Three prompts of those names that a caption has."""
    return {
        'train_dataloader.dataset.dataset.pipeline': [
            {'type': 'LoadImageFromFile'},
            {'type': 'NamePrompts', 'names': names, 'num_prompts': 3},
            {'type': 'TokenizeCaption', 'context_length': 40},
            {'type': 'PackImageTextInputs'},
        ],
    }


PROMPTS = _prompts(f'{DATA}/classes.txt')
NOUNS = (  # noqa: SIM905, a list would take a line for each
    'apple banana dog soccer ball frog pig grapes butterfly hamburger penguin watermelon umbrella '
    'elephant star cactus grass brick wall gravel sand snow photo picture image view scene '
    'snapshot side top bottom left right middle centre corner front background nothing'
).split()
"""All nouns of the captions of 20 classes, one by one, whether a class is called so or not."""
MULTI_LABEL: Options = {
    **PROMPTS,
    'model.decode_head.loss_multi_label': {'type': 'MultiLabelContrastiveLoss'},
}
LATE_INTERACTION: Options = {
    **PROMPTS,
    'model.decode_head.loss_multi_label': {'type': 'LateInteractionLoss'},
}
"""Those prompts against single groups, each projected by itself."""
WHOLE_IMAGES: Options = {'model.data_preprocessor.batch_augments': None}

WITH_NPR = ('pastes', 'pastes_from_the_start')
"""Main rows that variants of NPR are shown beside, as is what they are without."""
REFERENCE = 'pgseg'
"""The row that the others are compared with."""
COMPARED = (
    ('pgseg', 'pgseg_no_npr'),
    ('pgseg_no_npr', 'groupvit'),
    ('pastes', 'pastes_no_npr'),
    ('pastes_no_npr', 'pastes_groupvit'),
    ('pastes_release_npr', 'pastes_no_npr'),
    ('pastes_from_the_start', 'pastes_no_npr'),
    ('mosaics', 'mosaics_no_npr'),
    ('both', 'both_no_npr'),
    ('pastes_late_interaction', 'pastes_late_interaction_no_npr'),
    ('pastes_late_interaction', 'pastes'),
    ('pastes_multi_label', 'pastes'),
)
"""Main rows that differ in one thing, which are compared by the same seed."""
MAIN: dict[str, Options] = {
    'groupvit': {**MEAN_CONTRAST, **NO_PROTOTYPES},
    'pgseg': MEAN_CONTRAST,
    'pgseg_no_npr': {**MEAN_CONTRAST, **NO_NPR},
    'release_npr': {**MEAN_CONTRAST, **RELEASE_NPR},
    'multi_label': {**MEAN_CONTRAST, **MULTI_LABEL},
    'late_interaction': {**WHOLE_IMAGES, **LATE_INTERACTION},
    'pastes': PASTES,
    'pastes_no_npr': {**PASTES, **NO_NPR},
    'pastes_groupvit': {**PASTES, **NO_PROTOTYPES},
    'pastes_release_npr': {**PASTES, **RELEASE_NPR},
    'pastes_from_the_start': {**PASTES, **VARIANTS['from the start']},
    'pastes_multi_label': {**PASTES, **MULTI_LABEL},
    'pastes_late_interaction': {**PASTES, **LATE_INTERACTION},
    'pastes_late_interaction_no_npr': {**PASTES, **LATE_INTERACTION, **NO_NPR},
    'mosaics': MOSAICS,
    'mosaics_no_npr': {**MOSAICS, **NO_NPR},
    'both': BOTH,
    'both_no_npr': {**BOTH, **NO_NPR},
}
"""Options over the config by the row's name, in the table's order."""


def _of_pastes(variants: dict[str, Options]) -> dict[str, Options]:
    """Rows of variants of NPR over pastes, without those that are there under another name."""
    return {
        f'pastes_{re.sub("[^a-z0-9]+", "_", name.lower())}': {**PASTES, **options}
        for name, options in variants.items()
        if {**PASTES, **options} not in MAIN.values()
    }


NPR_ROWS = _of_pastes(VARIANTS)
"""Variants of NPR, which are trained only where they are asked for by name."""
SOFT = 'model.backbone.hard_assign'
CONTROLS: dict[str, Options] = {
    'pgseg_soft': {**MEAN_CONTRAST, SOFT: False},
    'pastes_soft': {**PASTES, SOFT: False},
    'pastes_groupvit_soft': {**PASTES, **NO_PROTOTYPES, SOFT: False},
    'pastes_late_interaction_soft': {**PASTES, **LATE_INTERACTION, SOFT: False},
    'pastes_late_interaction_nouns': {**PASTES, **LATE_INTERACTION, **_prompts(NOUNS)},
    'pgseg_t_npr': {**MEAN_CONTRAST, **VARIANTS['T-NPR']},
    'projected_means': {
        **WHOLE_IMAGES,
        **MULTI_LABEL,
    },
}
"""What tells causes apart; these, too, are trained only by name."""
ROWS = {**MAIN, **NPR_ROWS, **CONTROLS}
"""All rows, in the table's order."""
ABOUT = {
    'groupvit': 'GroupViT: no prototypes, contrast of images and captions',
    'pgseg': 'PGSeg: prototypes, NPR of groups as in the paper, contrast of images and captions; '
    'without the NPR of words, which the published recipe adds with weight 0.01',
    'pgseg_no_npr': 'prototypes, but no NPR loss',
    'release_npr': "PGSeg with NPR of groups and of words as the authors' release computes them",
    'multi_label': 'PGSeg with contrast of three prompts of named things beside the caption',
    'late_interaction': 'PGSeg with late interaction: those prompts each against the group that '
    'fits it best, and the caption against the mean of the projected groups; prompts are of names '
    'that are known beforehand, as in all rows that have any',
    'pastes': 'region contrast by pastes in 70 % of the steps, with NPR',
    'pastes_no_npr': 'the same without the NPR loss',
    'pastes_groupvit': 'the same without prototypes',
    'pastes_release_npr': "pastes, with the release's NPR of groups and of words",
    'pastes_from_the_start': 'pastes, with NPR from the first step: of the variants of NPR the one '
    'with the best oracle on seed 0, which flatters its means',
    'pastes_multi_label': 'pastes, with NPR and the contrast of prompts',
    'pastes_late_interaction': 'pastes, with NPR and late interaction: prompts each against the '
    'group of its region that fits it best',
    'pastes_late_interaction_no_npr': 'the same without the NPR loss',
    'mosaics': 'region contrast by mosaics in half of the steps, with NPR',
    'mosaics_no_npr': 'the same without the NPR loss',
    'both': 'pastes in 36 % and mosaics in 35 % of the steps, with NPR',
    'both_no_npr': 'the same without the NPR loss',
    'pgseg_soft': 'PGSeg whose tokens are pooled by the soft assignment',
    'pastes_soft': 'pastes, with NPR and tokens pooled by the soft assignment',
    'pastes_groupvit_soft': 'the same without prototypes',
    'pastes_late_interaction_soft': 'pastes, with NPR, late interaction and soft pooling: the demo',
    'pastes_late_interaction_nouns': 'pastes, with NPR and late interaction, with prompts of all '
    'nouns of the captions, one by one, such as photo and side, as if nobody knew the names',
    'pgseg_t_npr': 'PGSeg with the NPR of words, too, as the published recipe has it',
    'projected_means': 'late_interaction with prompts against that mean, too, not single groups',
}


def about(row: str) -> str:
    """A row in words."""
    if row in ABOUT:
        return ABOUT[row]
    options = ROWS[row]
    pasted = PASTES.items() <= options.items()
    changed = {name: value for name, value in options.items() if not pasted or name not in PASTES}
    base = 'pastes' if pasted else 'the config'
    return f'{base}, with ' + ', '.join(f'`{name}={value}`' for name, value in changed.items())


STAGES: dict[int, Options] = {
    1: {},
    2: {
        'model.backbone.depths': (2, 1, 1),
        'model.backbone.num_group_tokens': (16, 8, 0),
        'model.backbone.num_output_groups': (16, 8),
    },
}
"""Options by the number of grouping stages."""
