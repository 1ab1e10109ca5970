"""What a protocol and a config have in common."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config

from pgseg_mm.cli.protocol_notes import override_noted
from pgseg_mm.cli.protocols import apply_protocol, deciding_threshold, read_protocol

ZERO_SHOT = Path(__file__).parents[2] / 'configs' / 'pgseg' / 'zero_shot'


def test_what_decides_on_the_background_is_one_thing():
    head = dict(background_threshold=0.9)
    rules = dict(prob_threshold=0.1, background_score=0.4)
    for model, expected in (
        (dict(decode_head=head), ('background_threshold', 0.9)),
        (dict(decode_head=head, test_cfg=dict(mode='whole')), ('background_threshold', 0.9)),
        (dict(decode_head={}, test_cfg=dict(decision=rules)), ('background_score', 0.4)),
        (dict(decode_head={}, test_cfg=dict(decision=dict(logit_scale=40))), (None, None)),
    ):
        assert deciding_threshold(Config(dict(model=model))) == expected


def test_a_protocol_says_how_scores_are_resized():
    """So ``resize`` of the model's config does not stay."""
    dataset = dict(pipeline=[dict(type='Resize', scale=(2048, 448), keep_ratio=True)])
    parts = dict.fromkeys(('text_encoder', 'decode_head', 'data_preprocessor'), {})
    model = dict(parts, test_cfg=dict(mode='whole', resize='direct'))
    cfg = Config(dict(model=model, test_dataloader=dict(dataset=dataset)))
    apply_protocol(cfg, read_protocol('naclip').settings('voc21'))
    assert cfg.model.test_cfg.mode == 'whole' and 'resize' not in cfg.model.test_cfg


@pytest.mark.parametrize('kind', ['plain', 'wrapped', 'one number', 'no hooks'])
def test_settings_that_a_protocol_does_not_have_leave_what_was_applied(kind):
    cfg = Config.fromfile(ZERO_SHOT / 'pgseg_vit-small-p16_zero-shot_voc21.py')
    apply_protocol(cfg, read_protocol('sclip').settings('voc21'))
    before = copy.deepcopy(cfg.applied_protocol)
    (resize,) = (s for s in cfg.test_dataloader.dataset.pipeline if s['type'].endswith('Resize'))
    if kind == 'wrapped':
        inner = cfg.test_dataloader.dataset
        cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    elif kind == 'one number':
        resize.scale = 448
    elif kind == 'no hooks':
        cfg.custom_hooks = None
    override_noted(cfg, {'work_dir': 'x', 'model.test_cfg.stride': 7})
    assert cfg.applied_protocol == {**before, 'stride': 7}
