"""What the README shows, and how training and installing go on from there, is run at small size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from groupvits import files_of, small_groupvit, write_folder
from hub_server import HubServer, Model, use_hub
from odd_images import picture
from pages import ROOT, blocks, commands, read_page, section

README = read_page('README.md')
INSTALL = read_page('docs/install.md')
SMALL = {
    'emoji_scenes.py': ['--num-train', '160', '--num-val', '4'],
    'train.py': [],
    'dist_train.sh': [],
    'test.py': [],
    'dist_test.sh': [],
    'image_demo.py': [],
}
TRAINING = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=16']
NUM_WORKERS = [
    f'{split}_dataloader.{key}'
    for split in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False')
]


def small(command: list[str]) -> list[str]:
    """The command with this interpreter, and little to do."""
    tool = Path(command[1]).name
    command = [sys.executable if word == 'python' else word for word in command] + SMALL[tool]
    command = [word.replace('iter_1200', 'iter_1') for word in command]
    if tool == 'emoji_scenes.py':
        return command
    return [*command, '--cfg-options', *(TRAINING if 'train' in tool else []), *NUM_WORKERS]


def test_readme_is_read_in_two_minutes():
    assert len(README.splitlines()) <= 120


def test_training_and_evaluation(tmp_path):
    """The README's commands, and those in several processes that docs/training.md begins with."""
    for name in ('configs', 'demo', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, 'PYTHON': sys.executable, 'PORT': str(28500 + os.getpid() % 1000)}
    ran = []
    shown = commands(section(README, 'Train and evaluate'))
    for command in shown + commands(blocks_of(read_page('docs/training.md'), 1)):
        done = subprocess.run(
            small(command), cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'
        ran.append(Path(command[1]).name)
        if 'test' in ran[-1]:
            assert 'mIoU_objects' in done.stdout
    assert set(ran) == set(SMALL)
    assert (tmp_path / 'work_dirs' / 'tiny' / 'iter_1.pth').is_file()
    assert len(list((tmp_path / 'outputs' / 'vis').iterdir())) == 4


def blocks_of(text: str, number: int) -> str:
    """The first blocks of commands of a page."""
    return ''.join(f'```bash\n{block}```\n' for block in blocks(text, 'bash')[:number])


def test_segmenting_a_photo(tmp_path, monkeypatch):
    """A small GroupViT goes by the published name; the hub is there for the first time only."""
    monkeypatch.chdir(tmp_path)
    picture().save('photo.jpg')
    text = section(README, 'Segment a photo with your own words')
    install, segment = commands(text)
    assert install[:2] == ['pip', 'install'] and segment[0] == 'pgseg'
    folder = write_folder(small_groupvit(), tmp_path / 'model', 'safetensors')
    with HubServer() as server:
        server.models = {'nvidia/groupvit-gcc-yfcc': Model(files_of(folder))}
        use_hub(monkeypatch, server.url, tmp_path / 'home')
        variables = {
            'HF_ENDPOINT': server.url,
            'HF_HOME': str(tmp_path / 'home'),
            'PGSEG_CACHE': str(tmp_path / 'cache'),
            'PYTHONPATH': str(ROOT),
        }
        first = run_pgseg(segment, variables)
        assert "NVIDIA's" in first.stdout + first.stderr  # its licence
        written = {path: path.read_bytes() for path in Path('outputs').rglob('*.*')}
        assert {path.name for path in written} >= {'photo.png', 'areas.csv', 'classes.txt'}
    again = run_pgseg(segment, variables)  # the server is gone
    assert "NVIDIA's" not in again.stdout + again.stderr
    assert written == {path: path.read_bytes() for path in Path('outputs').rglob('*.*')}
    monkeypatch.setenv('PGSEG_CACHE', variables['PGSEG_CACHE'])
    (snippet,) = blocks(text, 'python')
    names: dict = {}
    exec(snippet, names)
    assert names['result'].mask.shape == (30, 40)
    assert names['result'].classes == ('dog', 'grass', 'frisbee')


def run_pgseg(command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess:
    """Run what the command ``pgseg`` runs."""
    command = [sys.executable, '-m', 'pgseg_command', *command[1:]]
    env = os.environ | variables
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f'{done.stdout[-2000:]}\n{done.stderr[-2000:]}'
    return done


def test_make_targets_and_extras_exist():
    makefile = read_page('Makefile')
    targets = [words[1] for words in commands(README, 'make')]
    targets += re.findall(r'`make ([\w-]+)`', INSTALL)
    assert {'demo', 'test-openmmlab'} <= set(targets)
    assert all(re.search(rf'^{target}:', makefile, re.MULTILINE) for target in targets)
    pip = commands(README + INSTALL, 'pip')
    (first,) = [words for words in pip if '-c' in words]  # what mmcv compiles with
    assert ' '.join(first[1:]) in re.sub(r'\s*\\\n\s*', ' ', makefile)
    extras = {re.search(r'\[(\w+)\]', words[-1])[1] for words in pip if words is not first}
    assert extras == {'onedl', 'openmmlab'}
    extras |= set(re.findall(r'`\[(\w+)\]`', INSTALL)) - {'all'}
    assert {path.stem for path in (ROOT / 'requirements').glob('*.txt')} >= extras


@pytest.mark.parametrize('page', ['README.md', 'docs/install.md'])
def test_commands_of_other_kinds_have_tests_elsewhere(page):
    """CI makes the environment; tests/test_packaging/test_wheel.py runs what the wheel brings."""
    for words in commands(read_page(page)):
        known = words[0] in ('make', 'pip', 'mim', 'pgseg')
        assert known or (page == 'README.md' and words[0] == 'python'), words
