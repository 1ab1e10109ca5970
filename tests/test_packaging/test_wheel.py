"""What `pip install .` puts on a machine that has no checkout, and how its configs are found."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from modelindex.load_model_index import load

from groupvits import files_of, small_groupvit, write_folder
from hub_server import HubServer, Model
from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.cli.run_configs import find_config

ROOT = Path(__file__).parents[2]
SHIPPED = ('configs', 'tools', 'demo')
TINY = 'pgseg_mm::pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'
NO_WORKERS = [
    f'{split}_dataloader.{setting}'
    for split in ('train', 'val', 'test')
    for setting in ('num_workers=0', 'persistent_workers=False')
]

KEEP_COMPILED = {'PYTHONDONTWRITEBYTECODE': ''}
"""Not set, even if pytest's environment has it."""


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


def python(
    *arguments, cwd: Path, interpreter: str | Path = sys.executable, **env
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(interpreter), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **{name: str(value) for name, value in env.items()}},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """The checkout without what tests, editors and installations have left in it."""
    source = tmp_path_factory.mktemp('checkout') / 'source'
    ignored = shutil.ignore_patterns('.*', '*.egg-info', 'build', 'dist', 'work_dirs', 'data')
    for entry in ('pgseg_mm', 'requirements', *SHIPPED):
        shutil.copytree(ROOT / entry, source / entry, ignore=ignored)
    for path in ROOT.glob('*'):
        if path.is_file():
            shutil.copy(path, source)
    return source


@pytest.fixture(scope='module')
def installed(source, tmp_path_factory) -> Path:
    """An unpacked wheel that was built from the source archive."""
    folder = tmp_path_factory.mktemp('wheel')
    done = python('setup.py', '-q', 'sdist', '-d', folder, cwd=source)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob('*.tar.gz')
    with tarfile.open(archive) as packed:
        packed.extractall(folder / 'unpacked', filter='data')
    (unpacked,) = (folder / 'unpacked').iterdir()
    options = ('--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', folder)
    done = python('-m', 'pip', 'wheel', '-q', '.', *options, cwd=unpacked)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / 'site')
    return folder / 'site'


def test_configs_tools_and_index_are_in_the_wheel(installed):
    mim = installed / 'pgseg_mm' / '.mim'
    for folder in SHIPPED:
        assert files_below(mim / folder) == files_below(ROOT / folder)
    assert (mim / 'model-index.yml').read_bytes() == (ROOT / 'model-index.yml').read_bytes()
    assert not list(installed.rglob('__pycache__'))
    (information,) = installed.glob('pgseg_mm-*.dist-info')
    assert sorted(path.name for path in installed.iterdir()) == [
        'pgseg_command.py',
        'pgseg_mm',
        information.name,
    ]
    scripts = (information / 'entry_points.txt').read_text()
    assert scripts == '[console_scripts]\npgseg = pgseg_command:main\n'


def test_installed_package_trains_by_the_name_of_a_config(installed, tmp_path):
    scenes = installed / 'pgseg_mm' / '.mim' / 'tools' / 'dataset_converters' / 'emoji_scenes.py'
    sizes = ('--num-train', 16, '--num-val', 2)
    done = python(scenes, 'data/emoji_scenes', *sizes, cwd=tmp_path, PYTHONPATH=installed)
    assert done.returncode == 0, done.stderr
    settings = ['train_cfg.max_iters=1', 'train_dataloader.batch_size=8', *NO_WORKERS]
    training = ('-m', 'pgseg_mm', 'train', TINY, '--cfg-options', *settings)
    assert f'\npgseg {" ".join(training[2:4])}\n' in (ROOT / 'docs/install.md').read_text()
    done = python(*training, cwd=tmp_path, PYTHONPATH=installed)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'work_dirs' / 'pgseg_tiny-p8_emoji-scenes-64x64' / 'iter_1.pth').is_file()
    assert_not_of_the_checkout(done)


def assert_not_of_the_checkout(done: subprocess.CompletedProcess) -> None:
    for name in ('pgseg_mm', *SHIPPED):  # the environment may lie in it
        assert str(ROOT / name) not in done.stdout + done.stderr


def pgseg(installed, place, *arguments, **env) -> subprocess.CompletedProcess:
    """The command, as its entry point runs it."""
    program = 'import sys, pgseg_command; sys.argv[0] = "pgseg"; pgseg_command.main()'
    return python('-c', program, *arguments, cwd=place, PYTHONPATH=installed, **env)


def test_installed_command_says_what_there_is(installed, tmp_path):
    done = pgseg(installed, tmp_path, '--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('usage: pgseg COMMAND')
    listed = pgseg(installed, tmp_path, 'models', HF_HOME=tmp_path / 'hub', HF_HUB_OFFLINE=1)
    assert listed.returncode == 0, listed.stderr
    assert 'groupvit-gcc-yfcc' in listed.stdout and 'non-commercial' in listed.stdout


def test_installed_command_segments_a_photograph(installed, tmp_path):
    photo = installed / 'pgseg_mm' / '.mim' / 'demo' / 'examples' / 'cat.jpg'
    Config(dict(model=tiny_model_cfg())).dump(tmp_path / 'tiny.py')
    torch.save(dict(state_dict=tiny_model().state_dict()), tmp_path / 'tiny.pth')
    model = ('--config', 'tiny.py', '--checkpoint', 'tiny.pth', '--device', 'cpu')
    done = pgseg(installed, tmp_path, 'segment', photo, '--texts', 'cat . blanket', *model)
    assert done.returncode == 0, done.stderr
    for written in ('vis/cat.png', 'pred/cat.png', 'areas.csv'):
        assert (tmp_path / 'outputs' / written).is_file()
    assert_not_of_the_checkout(done)


@pytest.fixture(scope='module')
def fresh(request, source, tmp_path_factory) -> Path:
    """Interpreter of a new environment after ``pip install '.[onedl]'``, and openmim's."""
    if not request.config.getoption('--fresh-install'):
        pytest.skip('give --fresh-install')
    folder = tmp_path_factory.mktemp('environment')
    done = python('-m', 'venv', folder, cwd=source)
    assert done.returncode == 0, done.stderr
    interpreter = folder / 'bin' / 'python'
    # what is imported is compiled then, and kept: see KEEP_COMPILED
    install = ['-m', 'pip', 'install', '-q', '--no-compile']
    install += ['-c', 'requirements/constraints.txt']
    for arguments in (
        [*install, '.[onedl]'],
        ['-m', 'pip', 'check'],
        [*install, 'openmim', 'setuptools<81'],  # it imports pkg_resources
    ):
        done = python(*arguments, cwd=source, interpreter=interpreter)
        assert done.returncode == 0, done.stdout + done.stderr
    return interpreter


def test_fresh_environment_trains_and_tests_by_the_name_of_a_config(fresh, tmp_path):
    """With what ``pip install`` brings and no more, from a folder without a checkout."""
    scenes = ROOT / 'tools' / 'dataset_converters' / 'emoji_scenes.py'  # draws by the extra [tests]
    sizes = ('--num-train', 32, '--num-val', 2)
    done = python(scenes, 'data/emoji_scenes', *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = ['train_cfg.max_iters=1', 'train_dataloader.batch_size=8', *NO_WORKERS]
    work = tmp_path / 'work_dirs' / 'pgseg_tiny-p8_emoji-scenes-64x64'
    tool = (fresh, '-m', 'pgseg_mm')
    mim = (fresh.with_name('mim'), 'train', 'pgseg_mm', TINY.rpartition('/')[2], '--gpus', 0)
    assert f'\n{" ".join(map(str, ("mim", *mim[1:])))}\n' in (ROOT / 'docs/install.md').read_text()
    commands: list[tuple] = [
        (*tool, 'train', TINY, '--cfg-options', *settings),
        (*tool, 'train', TINY, '--resume', '--cfg-options', *settings, 'train_cfg.max_iters=2'),
        (*tool, 'dist_train', TINY, 2, '--work-dir', 'two', '--cfg-options', *settings),
        (*tool, 'test', TINY, work / 'iter_2.pth', '--cfg-options', *NO_WORKERS),
        (*mim, '--work-dir', 'mim', '--cfg-options', *settings),
    ]
    for interpreter, *arguments in commands:
        done = python(*arguments, cwd=tmp_path, interpreter=interpreter, **KEEP_COMPILED)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert 'mIoU_objects' in done.stdout
        assert str(ROOT) not in done.stdout + done.stderr
    assert (tmp_path / 'mim' / 'iter_1.pth').is_file()
    assert (tmp_path / 'two' / 'iter_1.pth').is_file()


@pytest.fixture
def linked(tmp_path, monkeypatch) -> Path:
    """The package as an editable installation has it: its ``.mim`` links to the checkout."""
    package = tmp_path / 'pgseg_mm'
    (package / '.mim').mkdir(parents=True)
    for name in (*SHIPPED, 'model-index.yml'):
        (package / '.mim' / name).symlink_to(ROOT / name)
    monkeypatch.setattr('mmengine.hub.hub.get_installed_path', lambda name: str(tmp_path / name))
    return package


def test_every_config_of_the_index_is_found_by_its_name(linked):
    for index in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        for model in yaml.safe_load((ROOT / index).read_text())['Models']:
            name = model['Config'].removeprefix('configs/')
            assert get_config(f'pgseg_mm::{name}').filename == str(
                linked / '.mim' / model['Config']
            )


def test_tools_take_the_name_of_an_installed_config(linked):
    assert Path(find_config(ArgumentParser(), TINY)).resolve() == (
        ROOT / 'configs' / TINY.partition('::')[2]
    )


@pytest.mark.parametrize('name', ['pgseg_mm::pgseg/none.py', 'unheard_of::pgseg/none.py'])
def test_name_of_no_config_is_refused(linked, capsys, name):
    with pytest.raises(SystemExit):
        find_config(ArgumentParser(), name)
    assert f'error: installed config not found: {name}' in capsys.readouterr().err


def test_index_lists_every_metafile_and_they_list_files_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    metafiles = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/metafile.yml'))
    assert yaml.safe_load(Path('model-index.yml').read_text())['Import'] == metafiles
    index = load('model-index.yml')
    collections = {collection.name: collection for collection in index.collections}
    assert all(Path(collection.readme).is_file() for collection in collections.values())
    assert len(index.models) >= 18
    for model in index.models:
        assert Path(model.config).is_file(), model.name
        assert model.in_collection in collections


def test_fresh_environment_segments_a_photograph_by_a_published_name(fresh, tmp_path):
    """The two commands of the README; the hub is there for the first time only."""
    shutil.copy(ROOT / 'demo' / 'examples' / 'cat.jpg', tmp_path / 'photo.jpg')
    folder = write_folder(small_groupvit(), tmp_path / 'model', 'safetensors')
    command = [str(fresh.with_name('pgseg')), 'segment', 'photo.jpg', '--texts', 'cat . blanket']
    written = ('vis/photo.png', 'pred/photo.png', 'areas.csv')
    with HubServer() as server:
        server.models = {'nvidia/groupvit-gcc-yfcc': Model(files_of(folder))}
        env = {
            **os.environ,
            **KEEP_COMPILED,
            'HF_ENDPOINT': server.url,
            'HF_HOME': str(tmp_path / 'home'),
            'PGSEG_CACHE': str(tmp_path / 'cache'),
        }
        first = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    contents = [(tmp_path / 'outputs' / name).read_bytes() for name in written]
    shutil.rmtree(tmp_path / 'outputs')
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert contents == [(tmp_path / 'outputs' / name).read_bytes() for name in written]
    assert_not_of_the_checkout(first)
