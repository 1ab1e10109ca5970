"""Published weights are found by their names, by this package and by OpenMMLab's own tools."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config

from pgseg_mm.checkpoints import PUBLISHED, locate, published_models, sources
from pgseg_mm.checkpoints.published import hub_source, published_on_hub
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint

ROOT = Path(__file__).parents[2]


def test_names_say_where_the_weights_are_and_what_they_are():
    models = published_models()
    assert set(models) == {
        'groupvit-gcc-yfcc',
        'groupvit-gcc-redcaps',
        'pgseg-gcc',
        'pgseg-gcc-redcaps',
    }
    yfcc = models['groupvit-gcc-yfcc']
    assert yfcc.hub == 'hf-hub:nvidia/groupvit-gcc-yfcc'
    assert 'YFCC14M' in yfcc.data and 'non-commercial' in yfcc.license
    assert published_on_hub('nvidia/groupvit-gcc-yfcc') is yfcc
    assert published_on_hub('nvidia/other') is None
    for name, model in models.items():
        assert model.name == name and model.results and model.protocol
        assert (model.weights is None) == (model.page is not None)


@pytest.mark.parametrize('name', ['groupvit-gcc-yfcc', 'pgseg-gcc'])
def test_sizes_are_those_of_the_model(name):
    model = published_models()[name]
    built = replace(PUBLISHED, prototypes='pgseg' in name).build()
    assert sum(value.numel() for value in built.parameters()) == model.parameters
    if model.megabytes is not None:
        state = built.state_dict().values()
        size = sum(value.numel() * value.element_size() for value in state)
        assert model.megabytes == pytest.approx(size / 1e6, rel=0.01)


@pytest.mark.parametrize('name', sorted(published_models()))
def test_their_configs_build_their_models_and_the_page_has_their_figures(name):
    model = published_models()[name]
    cfg = Config.fromfile(ROOT / 'configs' / model.config.removeprefix('pgseg_mm::'))
    assert (cfg.model.backbone.get('prototypes') is not None) == name.startswith('pgseg')
    row = next(
        line
        for line in (ROOT / 'docs' / 'models.md').read_text().splitlines()
        if line.startswith(f'| `{name}` |')
    )
    for result in model.results:
        assert f'| {result.value} |' in row, result


def test_mmengine_finds_the_weights_of_a_config():
    model = published_models()['groupvit-gcc-yfcc']
    cfg = get_config(model.config, pretrained=True)
    assert cfg.model_path == model.weights
    assert hub_source(cfg.model_path) == model.hub


def test_metafiles_give_a_name_once():
    aliases = [
        entry['Alias']
        for path in (ROOT / 'configs').glob('*/metafile.yml')
        for entry in yaml.safe_load(path.read_text())['Models']
        if 'Alias' in entry
    ]
    assert sorted(aliases) == sorted(published_models())


@pytest.mark.parametrize(
    ('address', 'source'),
    [
        ('https://huggingface.co/a/b/resolve/main/model.safetensors', 'hf-hub:a/b'),
        ('https://huggingface.co/a/b/resolve/v2/pytorch_model.bin?download=true', 'hf-hub:a/b@v2'),
        ('https://huggingface.co/a/b/blob/main/pytorch_model.bin', 'hf-hub:a/b'),
        ('https://huggingface.co/a/b/resolve/main/deep/pytorch_model.bin', None),
        ('https://example.org/a/b/resolve/main/model.safetensors', None),
        ('https://huggingface.co/a/b/resolve/main/epoch_10-0123abcd.pth', None),
    ],
)
def test_addresses_of_the_hub_are_known(address, source):
    assert hub_source(address) == source


@pytest.mark.parametrize('kind', ['blob', 'resolve'])
def test_a_file_of_a_repository_that_is_no_model_of_transformers_is_that_file(monkeypatch, kind):
    asked = []
    monkeypatch.setattr(sources, 'fetch_checkpoint', lambda x: asked.append(x) or Path('got.pth'))
    assert locate(f'https://huggingface.co/a/b/{kind}/main/epoch_1.pth') == Path('got.pth')
    assert asked == ['https://huggingface.co/a/b/resolve/main/epoch_1.pth']


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('groupvit-gcc-yfc', r'did you mean groupvit-gcc-yfcc'),
        ('pgseg-redcaps', r'did you mean pgseg-gcc-redcaps'),
        ('resnet', r'published models are .*groupvit-gcc-yfcc'),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        locate(name)
    with pytest.raises(FileNotFoundError, match=f'checkpoint {name} does not exist'):
        load_checkpoint(name)


def test_weights_that_no_program_may_fetch_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as refused:
        locate('pgseg-gcc-redcaps')
    message = str(refused.value)
    assert published_models()['pgseg-gcc-redcaps'].page in message
    command = 'pgseg convert DOWNLOADED.pth pgseg-gcc-redcaps.pth'
    assert command in message and len(message) < 400


def test_a_file_or_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {'a': torch.ones(2)}}, 'pgseg-gcc')
    assert load_checkpoint('pgseg-gcc').state_dict['a'].tolist() == [1, 1]
