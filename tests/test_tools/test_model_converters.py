"""The converters as they are called, on small made-up checkpoints."""

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint as load_into

from checkpoint_zoo import GROUPVIT, ONE_STAGE, TWO_STAGES, release_state
from model_zoo import tiny_model, tiny_model_cfg
from pages import ROOT, commands, read_page
from pgseg_mm.checkpoints import mm_to_hugging_face
from pgseg_mm.checkpoints.hugging_face import save_hugging_face
from pgseg_mm.version import __version__

TOOLS = ROOT / 'tools' / 'model_converters'


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')
        printed = capsys.readouterr()
        return leaving.value.code, printed.out, printed.err

    return run


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def test_documented_commands(run, tmp_path):
    """Those of docs/checkpoints.md, one after another in one folder."""
    text = read_page('docs/checkpoints.md')
    shown = commands(text)
    assert {Path(command[1]).stem for command in shown} == {
        *(path.stem for path in TOOLS.glob('*.py')),
        'check_parity',
        'push_to_hub',
    }
    torch.save({'model': release_state(TWO_STAGES)}, tmp_path / 'pgseg.pth')
    torch.save({'model': release_state(GROUPVIT)}, tmp_path / 'groupvit.pth')
    conversion = mm_to_hugging_face(GROUPVIT.build().state_dict(), GROUPVIT)
    save_hugging_face(tmp_path / 'groupvit-gcc-yfcc', conversion)
    for command in shown:
        if 'model_converters' in command[1]:
            assert run(Path(command[1]).stem, *command[2:])[0] == 0, command
        else:
            assert (ROOT / command[1]).is_file()  # its own test runs it
    for name in ('pgseg', 'groupvit'):
        first, again = load(tmp_path / f'{name}.pth'), load(tmp_path / f'{name}_again.pth')
        assert list(first['model']) == list(again['model'])
        assert all(torch.equal(again['model'][k], v) for k, v in first['model'].items())
    assert (tmp_path / 'groupvit_again' / 'config.json').is_file()


def test_folders_of_any_kind_are_converted(run, tmp_path):
    """A folder of weights is what its names tell, as a file of them is."""
    release = release_state(GROUPVIT)
    (tmp_path / 'released').mkdir()
    torch.save(release, tmp_path / 'released' / 'pytorch_model.bin')
    assert run('convert', 'released', 'mm.pth')[0] == 0
    (tmp_path / 'own').mkdir()
    own = torch.load('mm.pth', weights_only=False)['state_dict']
    torch.save(own, tmp_path / 'own' / 'pytorch_model.bin')
    cfg = Config(dict(model=GROUPVIT.model_cfg()))
    cfg.dump(tmp_path / 'model.py')
    status, out, err = run('convert', 'own', 'again.pth', '--config', 'model.py')
    assert status == 0 and 'converter: mm2pgseg' in out, err
    again = load('again.pth')['model']
    for name, value in again.items():
        assert torch.equal(value, release[name]), name


def test_a_file_is_named_by_what_is_in_it(run, tmp_path):
    torch.save({'model': release_state(GROUPVIT)}, tmp_path / 'groupvit.pth')
    status, _, err = run('convert', 'groupvit.pth', 'mm.safetensors')
    assert status == 2 and 'give a name that ends in .pth' in err
    assert not Path('mm.safetensors').exists()


def test_weights_in_another_order_of_memory_are_written(run, tmp_path):
    state = GROUPVIT.build().state_dict()
    name = next(name for name, value in state.items() if value.ndim == 4)
    state[name] = state[name].to(memory_format=torch.channels_last)
    torch.save({'state_dict': state}, tmp_path / 'mm.pth')
    assert run('convert', 'mm.pth', 'folder')[0] == 0
    assert (tmp_path / 'folder' / 'model.safetensors').is_file()


def test_tool_runs_by_itself(tmp_path):
    torch.save(release_state(TWO_STAGES), tmp_path / 'pgseg.pth')
    model = {**TWO_STAGES.model_cfg(), 'data_preprocessor': tiny_model_cfg()['data_preprocessor']}
    Config({'model': model}).dump(tmp_path / 'model.py')
    command = [sys.executable, TOOLS / 'pgseg2mm.py', 'pgseg.pth', 'mm.pth', '--config', 'model.py']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'mm.pth: written (211 used' in done.stdout


def test_result_loads_as_mmengine_does(run):
    state = release_state(TWO_STAGES)
    torch.save({'model': state, 'optimizer': {}, 'epoch': 30}, 'pgseg.pth')
    status, out, _ = run('pgseg2mm', 'pgseg.pth', 'new/folder/mm.pth')
    assert status == 0
    lines = out.splitlines()
    assert 'left aside: optimizer, epoch' in lines
    assert any(
        line.startswith('architecture: PGSeg, other than published: img_size') for line in lines
    )
    assert f'used: {len(state) - 10}' in lines
    assert '  img_encoder.layers.0.blocks.0.attn.qkv.weight' in lines
    assert 'no part in the model, kept in meta: 10' in lines
    assert 'missing: 0' in lines and 'unexpected: 0' in lines
    content = load('new/folder/mm.pth')
    model = TWO_STAGES.build()
    load_into(model, 'new/folder/mm.pth', strict=True, map_location='cpu')
    meta = content['meta']['pgseg_mm']
    assert (meta['version'], meta['source']) == (__version__, 'pgseg.pth')
    assert len(meta['inert']) == 10
    assert list(Path('new/folder').iterdir()) == [Path('new/folder/mm.pth')]


def test_partial_match_is_refused_unless_told(run):
    state = release_state(TWO_STAGES)
    state['extra'] = state.pop('img_encoder.norm.weight')
    torch.save({'model': state}, 'pgseg.pth')
    status, out, err = run('pgseg2mm', 'pgseg.pth', 'mm.pth')
    assert status == 1
    assert 'missing: 1\n  img_encoder.norm.weight\nunexpected: 1\n  extra\n' in out
    assert '1 missing, 1 unexpected' in err and '--allow-partial' in err
    assert not Path('mm.pth').exists()
    status, out, _ = run('pgseg2mm', 'pgseg.pth', 'mm.pth', '--allow-partial')
    assert status == 0
    assert 'backbone.norm.bias' in load('mm.pth')['state_dict']
    assert 'backbone.norm.weight' not in load('mm.pth')['state_dict']


def test_tools_refuse_what_is_for_another(run):
    torch.save({'model': release_state(TWO_STAGES)}, 'pgseg.pth')
    torch.save({'model': release_state(GROUPVIT)}, 'groupvit.pth')
    torch.save({'conv1.weight': torch.ones(2), 'fc.bias': torch.ones(2)}, 'resnet.pth')
    for tool, source, message in (
        ('pgseg2mm', 'groupvit.pth', 'groupvit.pth has no prototypes .*use groupvit2mm.py'),
        ('groupvit2mm', 'pgseg.pth', 'pgseg.pth has prototypes .*use pgseg2mm.py'),
        ('hf_groupvit2mm', 'pgseg.pth', 'use pgseg2mm.py or groupvit2mm.py'),
        ('mm2pgseg', 'pgseg.pth', 'use pgseg2mm.py or groupvit2mm.py'),
        ('pgseg2mm', 'resnet.pth', 'its 2 entries are conv1.weight, fc.bias .*img_encoder'),
        ('mm2hf_groupvit', 'resnet.pth', 'no checkpoint of this project'),
        ('pgseg2mm', 'absent.pth', 'absent.pth does not exist'),
        ('pgseg2mm', '.', 'has neither model.safetensors nor pytorch_model.bin'),
    ):
        status, _, err = run(tool, source, 'out')
        assert status == 2
        assert re.search(message, err), (tool, source, err)
        assert not Path('out').exists()
    assert run('pgseg2mm', 'pgseg.pth', 'pgseg.pth')[0] == 2
    assert run('pgseg2mm', 'pgseg.pth', '.')[0] == 2
    assert run('mm2hf_groupvit', 'pgseg.pth', 'groupvit.pth')[0] == 2
    assert run('pgseg2mm', 'pgseg.pth', 'mm.pth', '--config', 'absent.py')[0] == 2


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_checkpoint_runs_with_trust_only(run, tmp_path):
    marker = tmp_path / 'ran'
    torch.save({'model': release_state(TWO_STAGES), 'config': Touch(marker)}, 'pgseg.pth')
    status, out, _ = run('pgseg2mm', 'pgseg.pth', 'mm.pth')
    assert status == 0 and not marker.exists()
    assert re.search('not loaded, foreign types: .*pathlib.Path', out)
    assert run('pgseg2mm', 'pgseg.pth', 'mm.pth', '--trust')[0] == 0
    assert marker.exists()


def config_file(model: dict) -> str:
    Config({'model': model}).dump('model.py')
    return 'model.py'


def test_config_says_what_to_fit(run):
    model = replace(TWO_STAGES, num_heads=(2, 4, 8)).model_cfg()
    torch.save({'model': release_state(TWO_STAGES)}, 'pgseg.pth')
    arguments = ('pgseg.pth', 'mm.pth', '--config', config_file(model))
    status, out, _ = run('pgseg2mm', *arguments)
    assert status == 0
    assert 'heads: (2, 4, 8), text 1, from --config' in out
    # a block less than the config has
    state = {k: v for k, v in release_state(TWO_STAGES).items() if '.layers.0.blocks.1.' not in k}
    torch.save({'model': state}, 'pgseg.pth')
    status, out, err = run('pgseg2mm', *arguments)
    assert status == 1
    assert '12 missing' in err
    # without a config it is a smaller model, and the report says so
    status, out, _ = run('pgseg2mm', 'pgseg.pth', 'mm.pth')
    assert status == 0
    assert 'depths (1, 1, 1) instead of (6, 3, 3)' in out


def test_heads_of_the_release_s_own_config(run):
    config = {'model': {'img_encoder': {'num_heads': [4, 4, 4]}}}
    torch.save({'model': release_state(TWO_STAGES), 'config': config}, 'pgseg.pth')
    assert (
        "heads: (4, 4, 4), text 1, from the checkpoint's config"
        in run('pgseg2mm', 'pgseg.pth', 'mm.pth')[1]
    )
    assert (
        'heads: (4, 4, 4), text 1, as the converter noted'
        in run('mm2pgseg', 'mm.pth', 'again.pth')[1]
    )


def test_checkpoint_of_training_goes_back(run):
    """As MMEngine's Runner writes it: prefix, optimizer, log, the config as text."""
    cfg = tiny_model_cfg()
    cfg['backbone']['assign_scale'] = 4.0
    marker = Path('ran').resolve()
    state = {f'module.{name}': value for name, value in tiny_model().state_dict().items()}
    text = Config({'model': cfg}).pretty_text + f'\nopen({str(marker)!r}, "w")\n'
    content = {'state_dict': state, 'optimizer': {}, 'meta': {'cfg': text, 'iter': 5}}
    torch.save(content, 'iter_5.pth')
    status, out, _ = run('mm2pgseg', 'iter_5.pth', 'pgseg.pth')
    assert status == 0
    assert "heads: (3, 3, 3), text 1, from the checkpoint's config" in out
    assert 'made afresh, no part in the model: 10' in out
    assert 'note: assign_scale=4' in out
    assert not marker.exists()
    name = 'layers.0.downsample.assign.q_proj.weight'
    ours = tiny_model().backbone.stages[0].grouping.assign.q_proj.weight
    assert torch.equal(load('pgseg.pth')['model'][f'img_encoder.{name}'], 4 * ours)


def test_soft_pooling_is_no_other_code_base_s(run):
    cfg = tiny_model_cfg()
    cfg['backbone']['hard_assign'] = False
    meta = {'cfg': Config({'model': cfg}).pretty_text}
    torch.save({'state_dict': tiny_model().state_dict(), 'meta': meta}, 'soft.pth')
    status, _, err = run('mm2pgseg', 'soft.pth', 'pgseg.pth')
    assert status == 2 and 'pooled by the soft assignment (hard_assign=False)' in err


def test_text_prototypes_need_a_word(run):
    state = ONE_STAGE.build().state_dict()
    state['decode_head.text_prototypes.prototypes.mu'] = torch.ones(1, 8, 64)
    torch.save({'state_dict': state}, 'mm.pth')
    status, out, err = run('mm2pgseg', 'mm.pth', 'pgseg.pth')
    assert status == 1
    assert 'for training here only' in out and '1 for training here only' in err
    assert run('mm2pgseg', 'mm.pth', 'pgseg.pth', '--allow-partial')[0] == 0


def test_prototypes_do_not_fit_hugging_face(run):
    torch.save({'state_dict': TWO_STAGES.build().state_dict()}, 'mm.pth')
    status, _, err = run('mm2hf_groupvit', 'mm.pth', 'hf')
    assert status == 2
    assert 'this model has prototypes' in err
    assert not Path('hf').exists()


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('model = dict(', 'cannot be read'),
        ("model = dict(type='mmseg.NoSuchModel')", 'cannot be built'),
        ('other = 1', 'has no model'),
    ],
)
def test_a_faulty_config_is_one_sentence(run, tmp_path, text, said):
    torch.save({'model': release_state(GROUPVIT)}, tmp_path / 'groupvit.pth')
    (tmp_path / 'faulty.py').write_text(text)
    status, _, err = run('groupvit2mm', 'groupvit.pth', 'out.pth', '--config', 'faulty.py')
    assert status == 2 and said in err and err.startswith('error: ')
    assert not (tmp_path / 'out.pth').exists()
