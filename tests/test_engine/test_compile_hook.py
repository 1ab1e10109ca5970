"""Training with compiled blocks. A backend that needs no C++ compiler stands for inductor."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

from killed_runs import (
    assert_equal,
    last_checkpoint,
    make_pairs,
    train,
    was_killed,
    write_config,
)
from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.engine.hooks import CompileHook
from pgseg_mm.engine.hooks.compile_hook import compile_parts

BACKEND = 'aot_eager'


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.set_stance('default')
    torch.compiler.reset()


def trained(steps=4, compiled=False, **backbone):
    """Losses of some steps, whose captions differ in length, and the model."""
    cfg = tiny_model_cfg()
    cfg['backbone'].update(drop_path_rate=0.3, **backbone)
    cfg['decode_head']['text_prototypes'] = {'type': 'TextPrototypes', 'num_prototypes': 3}
    torch.manual_seed(0)
    model = tiny_model(**{k: cfg[k] for k in ('backbone', 'decode_head')}).train()
    if compiled:
        assert compile_parts(model, BACKEND) == 6
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        tokens = torch.randint(1, 1000, (4, 8 + 4 * (step % 3)))
        values = model(torch.randn(4, 3, 32, 32), tokens=tokens, mode='loss')
        loss = model.parse_losses(values)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize('with_cp', [False, True])
def test_losses_are_those_without_compilation(with_cp):
    expected, plain = trained(with_cp=with_cp)
    losses, model = trained(compiled=True, with_cp=with_cp)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert list(model.state_dict()) == list(plain.state_dict())
    mu = [stage.prototypes.mu for stage in model.backbone.stages[:-1]]
    for moved, stage in zip(mu, plain.backbone.stages, strict=False):
        torch.testing.assert_close(moved, stage.prototypes.mu, rtol=1e-3, atol=1e-5)


def test_copies_are_not_compiled():
    model = trained(steps=0, compiled=True)[1]
    copied = copy.deepcopy(model)
    calls = []
    torch.compiler.reset()

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compile_parts(model, backend)
    copied.backbone(torch.randn(2, 3, 32, 32))
    assert not calls
    model.backbone(torch.randn(2, 3, 32, 32))
    assert len(calls) == 5  # three times blocks, twice grouping


class Counted:
    """A backend that counts its graphs."""

    graphs = 0

    def __call__(self, graph, inputs):
        Counted.graphs += 1
        return graph.forward


def test_hook_compiles_training_and_not_evaluation(tmp_path):
    hook = CompileHook(BACKEND)
    hook.backend = Counted()
    Counted.graphs = 0
    runner = Runner(
        tiny_model_cfg(), str(tmp_path), default_scope='mmseg', experiment_name=tmp_path.name
    )
    images = torch.randn(2, 3, 32, 32)
    hook.before_train(runner)
    hook.before_val(runner)
    runner.model.eval()
    with torch.no_grad():
        expected = runner.model.backbone(images).tokens
    assert Counted.graphs == 0
    hook.after_val(runner)
    with torch.no_grad():
        torch.testing.assert_close(runner.model.backbone(images).tokens, expected)
    assert Counted.graphs == 5


def test_what_cannot_be_compiled_is_refused():
    with pytest.raises(ValueError, match='nothing that is worth compiling'):
        compile_parts(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="does not work here with the backend 'absent'"):
        CompileHook('absent')
    with pytest.raises(RuntimeError, match=r'needs a C\+\+ compiler'):
        CompileHook(lambda graph, inputs: 1 / 0)


def test_a_compiled_run_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path):
    config = write_config(tmp_path / 'c.py', make_pairs(tmp_path / 'data'), 0, by_epoch=False)
    arguments = [
        '--compile',
        'eager',  # in each of three processes, so the quickest
        '--cfg-options',
        'randomness.seed=0',
        'train_cfg.max_iters=8',
    ]
    whole = train(config, tmp_path / 'whole', *arguments)
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert '6 parts of the model are compiled' in whole.stdout + whole.stderr
    assert was_killed(train(config, tmp_path / 'killed', *arguments, kill='5:after:0'))
    rest = train(config, tmp_path / 'killed', '--resume', *arguments)
    assert rest.returncode == 0, rest.stderr[-3000:]
    one, other = (last_checkpoint(tmp_path / name) for name in ('whole', 'killed'))
    assert_equal(one['state_dict'], other['state_dict'])
    assert_equal(one['ema_state_dict'], other['ema_state_dict'])


def test_a_second_run_in_one_process_is_compiled_too(monkeypatch):
    stances = []
    monkeypatch.setattr(torch.compiler, 'set_stance', stances.append)
    hook = CompileHook(BACKEND)
    runner = SimpleNamespace(model=tiny_model(), logger=logging.getLogger('compiled'))
    for _ in range(2):
        hook.before_train(runner)
        hook.after_train(runner)
    assert stances == ['default', 'force_eager'] * 2
