"""The commands of projects that run on emoji scenes, one after another in one folder, small."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from pages import ROOT, commands, read_page, section
from pgseg_mm.apis.model import build_model
from prepared_processes import run_python

PROJECTS = ('pgseg_backbone', 'npr_auxiliary', 'text_free')
FULL = Config.fromfile(ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py')
SCENES = ['--num-train', '8', '--num-val', '18']
TRAINING = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1']
NO_WORKERS = [
    f'{split}_dataloader.{setting}'
    for split in ('train', 'val', 'test')
    for setting in ('num_workers=0', 'persistent_workers=False')
]
EXTRA = {
    'emoji_scenes.py': SCENES,
    'train.py': [*TRAINING, *NO_WORKERS],
    'test.py': NO_WORKERS[-2:],
    'embed_vocabulary.py': [],
    'pgseg2onnx.py': [],
}


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Path:
    """Scenes, and weights of the size of the demo's."""
    made = tmp_path_factory.mktemp('made')
    tool = str(ROOT / 'tools/dataset_converters/emoji_scenes.py')
    run([tool, FULL.data_root, '--num-classes', '20'], made)
    weights = made / 'work_dirs' / 'tiny' / 'iter_1200.pth'
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save({'state_dict': build_model(FULL).state_dict(), 'meta': {}}, weights)
    return made


@pytest.fixture
def folder(tmp_path, made) -> Path:
    """A working directory with a copy of them, and links to the repository."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name in ('configs', 'projects', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    """Output of a command at small size."""
    tool = Path(next(word for word in command if word.endswith('.py'))).name
    if tool in ('train.py', 'test.py') and '--cfg-options' not in command:
        command = [*command, '--cfg-options']
    done = run_python([*command, *EXTRA[tool]], cwd=folder)
    assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}'
    return done.stdout


@pytest.mark.parametrize('project', PROJECTS)
def test_commands_of_the_readme(project, folder):
    readme = read_page(f'projects/{project}/README.md')
    for command in commands(section(readme, 'On emoji scenes')):
        assert command[0] == 'python'
        output = run(command[1:], folder)
        if command[1] in ('tools/train.py', 'tools/test.py'):
            assert 'mIoU_objects' in output
