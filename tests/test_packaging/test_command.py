"""The command ``pgseg``."""

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import pgseg_command
from checkpoint_zoo import GROUPVIT, TWO_STAGES, release_state
from model_zoo import tiny_model, tiny_model_cfg
from odd_images import picture
from pgseg_mm.apis import model_choice
from pgseg_mm.checkpoints import mm_to_hugging_face, published
from pgseg_mm.checkpoints.hugging_face import save_hugging_face
from pgseg_mm.version import __version__
from tool_runs import refusal

ROOT = Path(__file__).parents[2]
TINY = ['--config', 'tiny.py', '--checkpoint', 'tiny.pth', '--device', 'cpu']


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model and images in it, where the command is run."""
    Config(dict(model=tiny_model_cfg())).dump(tmp_path / 'tiny.py')
    torch.save(dict(state_dict=tiny_model().state_dict()), tmp_path / 'tiny.pth')
    for name in ('a.png', 'b.png'):
        picture().save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(sys, 'path', [*sys.path])
    return tmp_path


def run(*words: object) -> int:
    """Run the command in this process and return its exit status."""
    with pytest.raises(SystemExit) as leaving:
        pgseg_command.main([str(word) for word in words])
    return leaving.value.code or 0


def refused(capsys, *words: object) -> str:
    """The sentence by which the command refuses its arguments."""
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert 'Traceback' not in said
    return said.strip().splitlines()[-1]


def test_help_names_every_command_and_imports_nothing_large(capsys):
    assert run('--help') == 0
    shown = capsys.readouterr().out
    for name, command in pgseg_command.COMMANDS.items():
        assert f'  {name} ' in shown and command.about in shown
        assert (ROOT / command.script).is_file()
    program = (
        'import sys, pgseg_command\n'
        'try: pgseg_command.main(["--help"])\n'
        'except SystemExit: print({"torch", "pgseg_mm", "mmengine"} & set(sys.modules))'
    )
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith('\nset()\n')


def test_version_is_told(capsys):
    assert run('--version') == 0
    assert capsys.readouterr().out == f'pgseg-mm {__version__}\n'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'usage: pgseg COMMAND'),
        (['segmnt'], 'no command and no tool segmnt; did you mean segment?'),
        (['qqqq'], 'no command and no tool qqqq; pgseg --help lists the commands'),
    ],
)
def test_what_is_no_command_is_refused(capsys, words, message):
    assert run(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'interpreter', 'file'),
    [
        ('train', sys.executable, 'train.py'),
        ('table', sys.executable, 'analysis_tools/zero_shot_table.py'),
        ('dist_train', 'bash', 'dist_train.sh'),
        ('dataset_converters/cc3m', sys.executable, 'dataset_converters/cc3m.py'),
    ],
)
def test_tool_takes_over_with_its_arguments(monkeypatch, name, interpreter, file):
    became: list = []
    monkeypatch.setattr(pgseg_command, 'ROOTS', (ROOT,))
    monkeypatch.setattr('os.execvpe', lambda *arguments: became.extend(arguments))
    pgseg_command.main([name, 'a.py', '--resume'])
    command = [interpreter, str(ROOT / 'tools' / file), 'a.py', '--resume']
    assert became[:2] == [interpreter, command]
    assert became[2]['PYTHON']


def test_python_m_is_the_same():
    done = subprocess.run(
        [sys.executable, '-m', 'pgseg_mm', '--help'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith(f'{pgseg_command.usage()}\n')  # libraries print something first


def test_segment_writes_picture_mask_and_areas(place, capsys):
    assert run('segment', 'a.png', 'b.png', '--texts', 'dog . grass', *TINY) == 0
    shown = capsys.readouterr().out
    assert 'a.png: ' in shown and 'b.png: ' in shown
    for name in ('a.png', 'b.png'):
        assert Path('outputs/vis', name).is_file() and Path('outputs/pred', name).is_file()
    header, *rows = [line.split(',') for line in Path('outputs/areas.csv').read_text().splitlines()]
    assert header == ['image', 'class', 'share']
    for name in ('a.png', 'b.png'):
        shares = {words: float(share) for image, words, share in rows if image == name}
        assert shares.keys() <= {'dog', 'grass'} and sum(shares.values()) == pytest.approx(1)


def test_the_config_may_be_left_out(place, capsys):
    """A checkpoint carries it; the name of the default is here that of a file with a small one."""
    whole = replace(GROUPVIT, vocab_size=49408, context_length=77)
    torch.save({'model': release_state(whole)}, 'groupvit.pth')
    assert run('convert', 'groupvit.pth', model_choice.DEFAULT_MODEL) == 0
    assert run('segment', 'a.png', '--texts', 'dog . grass', '--device', 'cpu') == 0
    assert 'a.png: ' in capsys.readouterr().out
    args = ['a.png', model_choice.DEFAULT_MODEL, '--texts', 'dog . grass', '--device', 'cpu']
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / 'demo' / 'image_demo.py'))['main'](args)
    assert left.value.code == 0 and 'a.png: ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            ['segment', 'a.png', '--checkpoint', 'tiny.pth'],
            'Give the config that it was trained with',
        ),
        (['segment', 'a.png', '--texts', 'a,,b', *TINY], 'There is no word between two separators'),
        (['segment', 'absent.png', '--texts', 'a,b', *TINY], 'absent.png does not exist'),
        (['segment', 'a.png', 'b.png', '--out-file', 'c.png', *TINY], 'is for a single image'),
        (['web', '--checkpoint', 'tiny.pth'], 'tiny.pth cannot be used without a config'),
        (['web', '--config', 'absent.py'], 'config file not found: absent.py'),
        (['convert', 'absent.pth', 'out.pth'], 'absent.pth'),
        (['convert', 'a.png', 'out.pth'], 'a.png'),
        (['download', 'groupvit-gcc-yfc'], 'did you mean groupvit-gcc-yfcc'),
        (['download', 'absent.pth'], 'checkpoint file not found: absent.pth'),
        (['download', 'pgseg-gcc'], 'the authors link them on'),
    ],
)
def test_refusals_are_sentences_under_the_name_of_the_command(place, capsys, words, message):
    if words[0] == 'web':
        pytest.importorskip('gradio')
    said = refused(capsys, *words)
    assert message in said and said.startswith((f'pgseg {words[0]}: error: ', 'error: '))


def test_missing_extra_is_named_with_the_command_that_installs_it(place, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, 'web_demo', raising=False)
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert refused(capsys, 'web').endswith('run: pip install "pgseg-mm[web]"')


def test_models_are_listed_with_whether_they_are_here(place, monkeypatch, capsys):
    import huggingface_hub

    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(place / 'hub'))
    entry = published.published_models()['groupvit-gcc-yfcc']

    def listed() -> str:
        assert run('models') == 0
        lines = capsys.readouterr().out.splitlines()
        (line,) = [line for line in lines if entry.name in line]
        return line

    assert listed().endswith('| no           |')
    owner, name = entry.hub.removeprefix('hf-hub:').split('/')
    folder = place / 'hub' / f'models--{owner}--{name}'
    commit = '0' * 40
    (folder / 'refs').mkdir(parents=True)
    (folder / 'refs' / 'main').write_text(commit)
    snapshot = folder / 'snapshots' / commit
    snapshot.mkdir(parents=True)
    (snapshot / 'config.json').write_text('{}')
    assert huggingface_hub.__version__ and listed().endswith('| no           |')  # half of it
    (snapshot / 'model.safetensors').touch()
    line = listed()
    assert line.endswith('| yes          |') and '52.3' in line and '223' in line


def test_download_prints_where_it_is(place, capsys):
    assert run('download', 'tiny.pth') == 0
    assert capsys.readouterr().out == 'tiny.pth\n'


def test_convert_tells_the_converter_by_the_names(place, capsys):
    torch.save({'model': release_state(TWO_STAGES)}, 'pgseg.pth')
    torch.save({'model': release_state(GROUPVIT)}, 'groupvit.pth')
    conversion = mm_to_hugging_face(GROUPVIT.build().state_dict(), GROUPVIT)
    save_hugging_face('folder', conversion)
    for source, destination, converter in [
        ('pgseg.pth', 'pgseg_mm.pth', 'pgseg2mm'),
        ('groupvit.pth', 'groupvit_mm.pth', 'groupvit2mm'),
        ('folder', 'hf_mm.pth', 'hf_groupvit2mm'),
        ('folder/model.safetensors', 'hf_file_mm.pth', 'hf_groupvit2mm'),
        ('pgseg_mm.pth', 'pgseg_again.pth', 'mm2pgseg'),
        ('groupvit_mm.pth', 'groupvit_again', 'mm2hf_groupvit'),
    ]:
        assert run('convert', source, destination) == 0, source
        assert f'converter: {converter}\n' in capsys.readouterr().out
        assert Path(destination).exists()
    before, after = torch.load('pgseg.pth')['model'], torch.load('pgseg_again.pth')['model']
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_convert_can_be_told_the_converter(place, capsys):
    torch.save({'model': release_state(TWO_STAGES)}, 'pgseg.pth')
    said = refused(capsys, 'convert', 'pgseg.pth', 'out.pth', '--converter', 'groupvit2mm')
    assert 'it is of PGSeg, use pgseg2mm.py' in said and not Path('out.pth').exists()
    torch.save({'some.weight': torch.zeros(2)}, 'other.pth')
    assert 'no checkpoint of PGSeg' in refused(capsys, 'convert', 'other.pth', 'out.pth')


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('tools/misc/embed_vocabulary.py', ['--classes', 'dog', 'cat', '--out', 'e.npy']),
        ('tools/deployment/pgseg2onnx.py', ['--class-embeds', 'embeds.npy']),
        ('demo/image_demo.py', ['--texts', 'dog . cat']),
    ],
)
def test_weights_of_another_code_base_are_refused_with_status_2(
    place, monkeypatch, capsys, tool, arguments
):
    torch.save({'model': release_state(GROUPVIT)}, 'other.pth')
    np.save('embeds.npy', np.eye(2, 20, dtype=np.float32))
    images = ['a.png'] if 'demo' in tool else []
    said = refusal(monkeypatch, capsys, tool, *images, 'tiny.py', 'other.pth', *arguments)
    assert 'other.pth' in said


def test_publish_model_refuses_what_is_no_checkpoint_with_status_2(place, monkeypatch, capsys):
    said = refusal(monkeypatch, capsys, 'tools/misc/publish_model.py', 'a.png', 'out.pth')
    assert 'a.png' in said
    assert os.listdir(place) and not list(place.glob('out*'))
