"""Which images the hook draws, and for which of them the model makes groups."""

from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.visualization import Visualizer
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from PIL import Image

from model_zoo import tiny_model
from pgseg_mm.models import PGSegTTAModel


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Names of what the visualizer is told to draw, and whether to show it."""
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / 'a.png')
    names = []
    visualizer = SimpleNamespace(
        add_datasample=lambda name, image, show, **_: names.append((name, image.shape, show)),
        _vis_backends={'disk': object()},
    )
    monkeypatch.setattr(Visualizer, 'get_current_instance', lambda: visualizer)
    yield names
    assert visualizer._vis_backends  # also when pictures are shown


def runner_of(model) -> SimpleNamespace:
    return SimpleNamespace(model=model, iter=100)


def outputs(tmp_path) -> list[SegDataSample]:
    return [SegDataSample(metainfo=dict(img_path=str(tmp_path / 'a.png')))]


@pytest.mark.parametrize('wrap', [lambda model: model, PGSegTTAModel], ids=['plain', 'TTA'])
def test_a_test_draws_everything_with_groups(drawn, tmp_path, wrap):
    model = tiny_model()
    hook = HOOKS.build(dict(type='PGSegVisualizationHook', draw=True, show=True))
    for batch in range(2):
        hook.before_test_iter(runner_of(wrap(model)), batch)
        assert model.test_cfg['groups']
        hook.after_test_iter(runner_of(wrap(model)), batch, {}, outputs(tmp_path))
    assert drawn == [('test_a.png', (4, 4, 3), True)] * 2


def test_a_validation_draws_now_and_then_and_makes_groups_for_no_other_image(drawn, tmp_path):
    model = tiny_model()
    hook = HOOKS.build(dict(type='PGSegVisualizationHook', draw=True, interval=4))
    asked = []
    for batch in range(9):
        hook.before_val_iter(runner_of(model), batch)
        asked.append(model.test_cfg['groups'])
        hook.after_val_iter(runner_of(model), batch, {}, outputs(tmp_path))
    assert asked == [batch % 4 == 0 for batch in range(9)]
    assert drawn == [('val_a.png', (4, 4, 3), False)] * 3


def test_groups_that_the_user_asks_for_stay_and_others_are_left_out_again(drawn, tmp_path):
    for own in (True, False):
        model = tiny_model()
        model.test_cfg['groups'] = own
        hook = HOOKS.build(dict(type='PGSegVisualizationHook', draw=True, interval=4))
        for batch in range(3):
            hook.before_val_iter(runner_of(model), batch)
            assert model.test_cfg['groups'] == (own or batch == 0)
            hook.after_val_iter(runner_of(model), batch, {}, outputs(tmp_path))
        hook.before_test_iter(runner_of(model), 0)
        hook.after_test_iter(runner_of(model), 0, {}, outputs(tmp_path))
        assert model.test_cfg['groups'] == own


def test_nothing_is_asked_for_where_nothing_is_drawn(drawn):
    model = tiny_model()
    hook = HOOKS.build(dict(type='PGSegVisualizationHook'))
    hook.before_test_iter(runner_of(model), 0)
    hook.before_val_iter(runner_of(model), 0)
    assert 'groups' not in model.test_cfg and drawn == []


def test_other_models_are_left_alone(drawn):
    other = SimpleNamespace(test_cfg={})
    hook = HOOKS.build(dict(type='PGSegVisualizationHook', draw=True))
    hook.before_test_iter(runner_of(other), 0)
    assert other.test_cfg == {}
