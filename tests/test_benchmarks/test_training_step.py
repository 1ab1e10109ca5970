"""The benchmark of the training step at a tiny size: what it reports, not how fast anything is."""

import json
import sys
from statistics import median

import pytest

from benchmark_runs import run_benchmark, write_small_config
from benchmarks.training_contestants import PASTES, Model, Option, Settings, make_batch
from pgseg_mm.models.losses import LateInteractionLoss

PAGE = """# Title
<!-- measured by benchmarks.training_step -->
old
<!-- end of what was measured -->
What it means.
"""


@pytest.fixture
def config(tmp_path):
    return write_small_config(tmp_path / 'small.py')


def test_rows_ratios_memory_and_page(config, tmp_path, monkeypatch):
    raw, page = tmp_path / 'new' / 'raw.json', tmp_path / 'page.md'
    page.write_text(PAGE)
    sizes = ['--batch', 3, '--trimmed-tokens', 8, '--rounds', 3, '--threads', 1]
    options = ['--options', 'plain', 'checkpointing', 'compile', '--backend', 'eager']
    files = ['--json', raw, '--markdown', page]
    run_benchmark(monkeypatch, 'training_step', config, *sizes, *options, *files)
    result = json.loads(raw.read_text())
    rows = {(row['model'], row['option'], row['tokens']): row for row in result['times']}
    ours = {(name, 77) for name in ('plain', 'checkpointing', 'compile')} | {('plain', 8)}
    assert {key[1:] for key in rows if key[0] == 'small'} == ours
    plain, trimmed = (rows['small', 'plain', tokens]['seconds'] for tokens in (77, 8))
    expected = median(a / b for a, b in zip(trimmed, plain, strict=True))
    assert rows['small', 'plain', 8]['times_plain']['median'] == pytest.approx(expected, rel=0.01)
    if 'transformers' in result['versions']:
        peer = {tokens: rows['GroupViT of transformers', 'plain', tokens] for tokens in (77, 8)}
        for name, tokens in (('times_peer', 8), ('times_peer_untrimmed', 77)):
            others = peer[tokens]['seconds']
            expected = median(a / b for a, b in zip(trimmed, others, strict=True))
            assert rows['small', 'plain', 8][name]['median'] == pytest.approx(expected, rel=0.01)
    if sys.platform == 'linux':
        assert len(result['memory']) == len(rows)
        assert all(row['peak_mib'] >= row['before_mib'] > 100 for row in result['memory'])
    profile = result['profiles'][0]
    assert profile['model'] == 'small'
    spent = [entry['seconds'] for entry in profile['operations']]
    assert (
        spent == sorted(spent, reverse=True) and 0 < sum(spent) <= profile['total_seconds'] + 1e-4
    )
    assert all(entry['calls'] > 0 for entry in profile['operations'])
    text = page.read_text()
    assert text.startswith('# Title\n<!-- measured') and text.endswith('What it means.\n')
    assert 'old' not in text.split('\n')
    assert '| small | activation checkpointing (with_cp) | 77 |' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.py'], 'config file not found'),
        (['--rounds', 1], 'must be at least 2'),
        (['--trimmed-tokens', 99], 'must be from 5 to --tokens'),
    ],
)
def test_refuses_what_cannot_be_measured(config, monkeypatch, capsys, arguments, message):
    arguments = arguments if arguments[0] == 'absent.py' else [config, *arguments]
    with pytest.raises(SystemExit) as leaving:
        run_benchmark(monkeypatch, 'training_step', *arguments)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


def test_a_page_without_a_place_is_refused_before_anything_is_measured(
    config, tmp_path, monkeypatch
):
    (tmp_path / 'page.md').write_text('# A page')
    with pytest.raises(SystemExit, match='page.md has no lines'):
        run_benchmark(
            monkeypatch,
            'training_step',
            config,
            '--rounds',
            9**9,
            '--markdown',
            tmp_path / 'page.md',
        )


def test_a_step_of_late_interaction_reads_prompts_beside_each_caption(config):
    option = Option('pastes, 2 prompts', joined=PASTES, prompts=2)
    settings = Settings(batch=4, words=5, threads=1, device='cpu', backend='eager')
    preprocessor = {'type': 'PGSegDataPreProcessor', 'mean': [0.0] * 3, 'std': [1.0] * 3}
    options = {'model.data_preprocessor': preprocessor}
    model = Model(str(config), option, settings, cfg_options=options)
    texts, losses = [], []
    model.module.text_encoder.register_forward_pre_hook(lambda _, args: texts.append(args[0]))
    head = model.module.decode_head
    assert isinstance(head.loss_multi_label, LateInteractionLoss)
    head.loss_multi_label.register_forward_hook(lambda _, args, out: losses.append(out))
    assert model.module.data_preprocessor.batch_augments.augments[0].sizes == (1, 2, 3)
    images, tokens = make_batch(str(config), settings, 20)
    assert model.step(option, images, tokens)().isfinite()
    assert {tuple(text.shape) for text in texts} == {(4, 20), (8, 16)}
    assert len(losses) == 1 and losses[0] > 0
