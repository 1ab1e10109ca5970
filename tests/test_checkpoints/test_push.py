"""Checkpoints back to a hub, and from there again: bit for bit, with a card of what is known."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from mmengine.config import Config
from mmseg.registry import MODELS
from transformers import GroupViTModel

from groupvits import files_of, small_config, small_groupvit, write_folder
from hub_server import HubServer, Model, use_hub
from model_zoo import lively_model, tiny_model_cfg
from odd_images import picture
from pgseg_mm import limits
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.checkpoints import hub, locate
from pgseg_mm.checkpoints.model_card import read_benchmark_table
from pgseg_mm.checkpoints.push import About, push, save_for_hub
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint

ROOT = Path(__file__).parents[2]
NAME = 'tiny/pushed'
META = {'classes': ('thing', 'a | b'), 'palette': [[0] * 3] * 2, 'vocabulary': [['thing'], ['b']]}
main = runpy.run_path(str(ROOT / 'tools' / 'misc' / 'push_to_hub.py'))['main']


@pytest.fixture
def at_hub(server, tmp_path, monkeypatch) -> HubServer:
    """A hub without models, whose user may write."""
    server.models.clear()
    server.requests.clear()
    server.faults = type(server.faults)()
    server.writers = {'secret': ('tiny',)}
    use_hub(monkeypatch, server.url, tmp_path / 'home')
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('HF_TOKEN', 'secret')
    return server


@pytest.fixture
def trained(tmp_path) -> Path:
    """A checkpoint of a training run, with weights of half precision among the others."""
    model = tiny_model_cfg(class_embed_cache='/home/somebody')
    cfg = Config(
        dict(model=model, background_thresholds=dict(voc21=0.2), work_dir='/home/somebody/runs')
    )
    state = lively_model().state_dict()
    name = next(iter(state))
    state[name] = state[name].half().transpose(0, -1).contiguous().transpose(0, -1)
    content = {'state_dict': state, 'meta': {'cfg': cfg.pretty_text, 'dataset_meta': META}}
    torch.save({**content, 'optimizer': {'a': 1}}, tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth'


def table(tmp_path, **changes) -> Path:
    row = dict(state='measured', name='voc21', classes=21, threshold=0.95, images=1449)
    row |= dict(seconds=1.0, metrics=dict(mIoU=52.345, aAcc=80.0, other=1.0), class_iou={})
    rows = [row | changes, dict(state='missing', name='ade20k', missing=[], prepare='')]
    content = dict(checkpoint='epoch_1.pth', config='a.py', protocol='published', benchmarks=rows)
    (tmp_path / 'zero_shot.json').write_text(json.dumps(content))
    return tmp_path / 'zero_shot.json'


def same(found: str | Path, expected: str | Path) -> None:
    """Compare weights, classes and predictions bit by bit."""
    one, other = load_checkpoint(found), load_checkpoint(expected)
    assert one.state_dict.keys() == other.state_dict.keys()
    for name, value in other.state_dict.items():
        assert one.state_dict[name].dtype == value.dtype and torch.equal(
            one.state_dict[name], value
        )
    noise = np.random.default_rng(0).integers(-40, 40, (60, 90, 3))
    image = np.clip(np.asarray(picture(60, 90)) + noise, 0, 255).astype(np.uint8)
    pair = [PGSegInferencer(source, device='cpu') for source in (found, expected)]
    words = [None] if pair[1].model.known_vocabulary() else []
    for classes in (*words, 'dog . red car . grass'):
        a, b = (inferencer(image, classes, scores='dense')[0] for inferencer in pair)
        assert a.classes == b.classes and np.array_equal(a.scores, b.scores)
        assert np.array_equal(a.mask, b.mask)
    assert pair[0].default_threshold('voc21') == pair[1].default_threshold('voc21')


def card_of(files: dict[str, bytes]) -> tuple[dict, str]:
    _, front, text = files['README.md'].decode().split('---\n', 2)
    return yaml.safe_load(front), text


def test_what_was_pushed_loads_again_bit_for_bit(at_hub, trained):
    assert push(trained, NAME) == f'hf-hub:{NAME}'
    files = at_hub.models[NAME].files
    assert set(files) == {'README.md', 'config.json', 'config.py', 'model.safetensors'}
    same(f'hf-hub:{NAME}', trained)
    about = json.loads(files['config.json'])
    assert about['model_type'] == 'pgseg' and about['library_name'] == 'pgseg_mm'
    assert b'/home/somebody' not in b''.join(files.values())
    got = {r.rpartition('/')[2] for r in at_hub.requests if r.startswith('GET') and NAME in r}
    assert 'config.py' in got and 'README.md' not in got
    hub.download.cache_clear()
    at_hub.requests.clear()
    assert locate(f'hf-hub:{NAME}').is_file()
    assert [request.partition(' ')[0] for request in at_hub.requests] == ['HEAD']


def test_a_folder_is_the_same(at_hub, trained, tmp_path):
    assert save_for_hub(trained, tmp_path / 'pushed') == tmp_path / 'pushed'
    same(tmp_path / 'pushed', trained)
    assert not at_hub.requests
    with pytest.raises(FileExistsError, match='not empty'):
        save_for_hub(trained, tmp_path / 'pushed')
    # the config beside the weights is one that mmengine reads, too
    given = PGSegInferencer(tmp_path / 'pushed' / 'config.py', tmp_path / 'pushed')
    assert given.default_threshold('voc21') == 0.2


def test_a_second_push_is_another_commit(at_hub, trained):
    push(trained, NAME)
    before = at_hub.models[NAME].commit
    push(trained, NAME, About(license='mit'))
    assert at_hub.models[NAME].commit != before
    assert card_of(at_hub.models[NAME].files)[0]['license'] == 'mit'


def test_a_converted_model_is_pushed_with_what_is_published(at_hub, tmp_path):
    folder = write_folder(small_groupvit(), tmp_path / 'model', 'bin')
    at_hub.models['nvidia/groupvit-gcc-yfcc'] = Model(files_of(folder))
    push('groupvit-gcc-yfcc', NAME)
    same(f'hf-hub:{NAME}', 'groupvit-gcc-yfcc')
    front, text = card_of(at_hub.models[NAME].files)
    assert front['license'] == 'other' and front['license_name'] == 'nvidia-s-non-commercial'
    assert 'datasets' not in front and '- Conceptual Captions 12M' in text
    assert 'have published' in text and '52.3' in text and 'not measured here' in text
    assert 'metrics' not in front and 'model-index' not in front
    assert 'xu2022groupvit' in text and 'zhang2023pgseg' not in text
    assert '| num heads | (4, 4, 4) |' in text


def test_the_card_has_what_is_known_and_nothing_else(at_hub, trained, tmp_path):
    push(trained, NAME)
    front, text = card_of(at_hub.models[NAME].files)
    assert front == {
        'library_name': 'pgseg_mm',
        'pipeline_tag': 'image-segmentation',
        'tags': ['zero-shot-segmentation', 'open-vocabulary', 'groupvit'],
    }
    for title in ('Licence', 'Training data', 'Zero-shot', 'have published'):
        assert title not in text
    assert '## Classes' in text and r'thing, a \| b' in text
    lines = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1].splitlines()
    assert len(lines) == 3 and f"PGSegInferencer('hf-hub:{NAME}')" in lines[1]
    about = About('other', 'My Terms', 'https://a.b/c', ('cc12m', 'My own'), table(tmp_path))
    push(trained, NAME, about)
    front, text = card_of(at_hub.models[NAME].files)
    assert (front['license_name'], front['license_link']) == ('my-terms', 'https://a.b/c')
    assert front['datasets'] == ['cc12m'] and '- My own' in text
    assert front['metrics'] == ['mean_iou', 'accuracy']
    (result,) = front['model-index'][0]['results']
    assert result['dataset'] == {'name': 'voc21', 'type': 'voc21'}
    assert {m['name']: m['value'] for m in result['metrics']} == {'mIoU': 52.34, 'aAcc': 80.0}
    assert '| voc21 | 21 | 0.95 | 1449 | 52.34 | 80.00 |  |' in text
    assert 'Protocol: published (as GroupViT' in text and 'other' not in text.split('Protocol')[1]


def test_tables_tell_their_protocols(tmp_path):
    path = table(tmp_path)
    content = json.loads(path.read_text())

    def read(**changes):
        path.write_text(json.dumps({**content, **changes}))
        return read_benchmark_table(path)

    assert read().protocol == 'published'
    assert read(protocol='tcl').protocol == 'published, with synonyms'  # what it was
    assert read(protocol='tcl', protocols={'tcl': {}}).protocol == 'tcl'
    (row, _) = content['benchmarks']
    rows = [{**row, 'protocol': name} for name in ('sclip', 'naclip')]
    several = read(protocol='sclip naclip', protocols={}, benchmarks=rows)
    assert [result.name for result in several.results] == ['voc21 by sclip', 'voc21 by naclip']


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'metrics': {'mIoU': float('nan')}}, 'lacks name, classes, images or a metric'),
        ({'metrics': {'mIoU': 'good'}}, 'lacks name'),
        ({'classes': None}, 'lacks name'),
        ({'state': 'failed'}, 'no benchmark that was measured'),
    ],
)
def test_other_tables_are_refused_before_anything_is_written(trained, tmp_path, changes, said):
    about = About(metrics=table(tmp_path, **changes))
    with pytest.raises(CheckpointError, match=said):
        save_for_hub(trained, tmp_path / 'pushed', about)
    (tmp_path / 'zero_shot.json').write_text('[]')
    with pytest.raises(CheckpointError, match='JSON object'):
        save_for_hub(trained, tmp_path / 'pushed', about)
    assert not (tmp_path / 'pushed').exists()


def test_a_model_without_prototypes_goes_to_transformers(at_hub, tmp_path):
    theirs = small_groupvit()
    folder = write_folder(theirs, tmp_path / 'model', 'safetensors')
    push(folder, NAME, format='transformers')
    front, text = card_of(at_hub.models[NAME].files)
    assert front['library_name'] == 'transformers' and 'GroupViTModel' in text
    again = GroupViTModel.from_pretrained(
        hub.download(hub.parse_name(f'hf-hub:{NAME}'))
    ).state_dict()
    for name, value in theirs.state_dict().items():
        assert torch.equal(again[name], value), name
    same(f'hf-hub:{NAME}', folder)


def test_prototypes_do_not_go_to_transformers(trained, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main([str(trained), '--to-folder', str(tmp_path / 'x'), '--format', 'transformers'])
    assert left.value.code == 2 and 'has prototypes' in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(
    ('fault', 'said'),
    [
        ('no token', r'\(401\): run hf auth login, or set HF_TOKEN'),
        ('other owner', r'does not let you write other/pushed \(403\)'),
        ('no network', 'could not be pushed to .* look at the network'),
        ('offline', 'could not be pushed to .* HF_HUB_OFFLINE'),
        ('broken', r'does not take tiny/pushed \(500'),
    ],
)
def test_failures_are_one_sentence(at_hub, trained, monkeypatch, capsys, fault, said):
    name = NAME
    if fault == 'no token':
        monkeypatch.delenv('HF_TOKEN')
    elif fault == 'other owner':
        name = 'other/pushed'
    elif fault == 'no network':
        monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
        monkeypatch.setattr('huggingface_hub.hf_api.constants.ENDPOINT', 'http://127.0.0.1:9')
    elif fault == 'offline':
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
        monkeypatch.setattr('huggingface_hub.utils._http.constants.HF_HUB_OFFLINE', True)
        from huggingface_hub.utils import _http

        _http.close_session()
    else:
        at_hub.faults.status = 500
    with pytest.raises(SystemExit) as left:
        main([str(trained), name])
    if fault == 'offline':
        _http.close_session()
    assert left.value.code == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if 'error: ' in x)
    assert re.search(said, line), line
    assert len(line) < 500 and not at_hub.models


def test_command_lines(at_hub, trained, tmp_path, capsys):
    assert main([str(trained), NAME, '--license', 'mit', '--datasets', 'cc3m', 'cc12m']) == 0
    assert f"PGSegInferencer('hf-hub:{NAME}')" in capsys.readouterr().out
    assert card_of(at_hub.models[NAME].files)[0]['datasets'] == ['cc3m', 'cc12m']
    about = ['--metrics', str(table(tmp_path)), '--license-name', 'Mine']
    assert main([str(trained), '--to-folder', str(tmp_path / 'pushed'), *about]) == 0
    front, _ = card_of(files_of(tmp_path / 'pushed'))
    assert front['license'] == 'other' and front['metrics'] == ['mean_iou', 'accuracy']
    for words, said in (
        ([str(trained)], 'owner/name or --to-folder'),
        ([str(trained), 'name'], 'write hf-hub:owner/name'),
        ([str(trained), f'{NAME}@v1'], 'leave the revision out'),
        ([str(tmp_path / 'absent.pth'), NAME], 'does not exist'),
        ([str(trained), NAME, '--metrics', str(tmp_path / 'absent.json')], 'absent.json'),
        ([str(trained), NAME, '--license', 'mit', '--license-name', 'a'], '--license other'),
    ):
        with pytest.raises(SystemExit) as left:
            main(words, 'pgseg push')
        assert left.value.code == 2
        message = capsys.readouterr().err
        assert said in message and 'pgseg push: error: ' in message


def test_weights_without_a_config_or_with_nan_are_refused(trained, tmp_path):
    content = torch.load(trained)
    torch.save({'state_dict': content['state_dict']}, tmp_path / 'plain.pth')
    with pytest.raises(CheckpointError, match='Give the config'):
        save_for_hub(tmp_path / 'plain.pth', tmp_path / 'pushed')
    Config(dict(model=tiny_model_cfg())).dump(tmp_path / 'given.py')
    save_for_hub(tmp_path / 'plain.pth', tmp_path / 'pushed', config=tmp_path / 'given.py')
    assert PGSegInferencer(tmp_path / 'pushed', device='cpu')
    next(iter(content['state_dict'].values())).fill_(float('nan'))
    torch.save(content, tmp_path / 'nan.pth')
    with pytest.raises(CheckpointError, match='NaN or infinite'):
        save_for_hub(tmp_path / 'nan.pth', tmp_path / 'other')


@pytest.mark.parametrize('how', ['checkpoint', 'config'])
def test_transformers_gets_heads_and_scale_and_never_a_guess(tmp_path, how):
    cfg = small_config()
    cfg.model.backbone.assign_scale = 3.0
    model = MODELS.build(cfg.model)
    content = {'state_dict': model.state_dict(), 'meta': {'cfg': cfg.pretty_text}}
    given = None
    if how == 'config':
        content['meta'], given = {}, tmp_path / 'given.py'
        cfg.dump(given)
    torch.save(content, tmp_path / 'last.pth')

    def saved(name: str) -> Path:
        path = tmp_path / 'last.pth'
        return save_for_hub(path, tmp_path / name, format='transformers', config=given)

    found = GroupViTModel.from_pretrained(saved('hard'))
    assert found.config.vision_config.num_attention_heads == 4
    query = 'stages.0.grouping.assign.q_proj.weight'
    theirs = 'vision_model.encoder.stages.0.downsample.assign.q_proj.weight'
    torch.testing.assert_close(found.state_dict()[theirs], 3 * model.backbone.state_dict()[query])
    cfg.model.backbone.hard_assign = False
    content['meta'] = {'cfg': cfg.pretty_text} if given is None else {}
    torch.save(content, tmp_path / 'last.pth')
    if given is not None:
        cfg.dump(given)
    with pytest.raises(CheckpointError, match='pooled by the soft assignment'):
        saved('soft')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'last.pth')
    given = None
    with pytest.raises(CheckpointError, match='give the config'):
        saved('plain')
    assert {path.name for path in tmp_path.iterdir()} <= {'hard', 'last.pth', 'given.py'}


def test_a_table_of_another_checkpoint_of_that_name_is_told(trained, tmp_path, log):
    about = About(metrics=table(tmp_path))  # of epoch_1.pth where the process is
    save_for_hub(trained, tmp_path / 'pushed', about)
    assert 'is of epoch_1.pth; see that it is the same model' in log.text


@pytest.mark.parametrize('how', ['code', 'huge', 'absent', 'no text', 'other weights'])
def test_hostile_repositories_of_this_format(at_hub, trained, tmp_path, how):
    push(trained, NAME)
    files = at_hub.models[NAME].files
    run = tmp_path / 'run'
    if how == 'code':
        files['config.py'] = f'model = __import__("os").mkdir({str(run)!r})'.encode()
    elif how == 'huge':
        files['config.py'] = b'#' * (4 * limits.CONFIG_TEXT_CHARACTERS + 1)
    elif how == 'absent':
        del files['config.py']
    elif how == 'no text':
        files['config.py'] = b'\xff\xfe\x00'
    else:
        folder = write_folder(small_groupvit(), tmp_path / 'model', 'safetensors')
        files['model.safetensors'] = (folder / 'model.safetensors').read_bytes()
    with pytest.raises(CheckpointError) as error:
        PGSegInferencer(f'hf-hub:{NAME}', device='cpu')
    assert '\n' not in str(error.value) and len(str(error.value)) < 500
    assert not run.exists()
    assert how != 'code' or 'no model of plain values' in str(error.value)
    if how == 'code':  # the weights are good
        PGSegInferencer(Config(dict(model=tiny_model_cfg())), f'hf-hub:{NAME}', 'cpu')


def test_the_small_config_of_tests_is_the_one_that_is_pushed(at_hub, tmp_path):
    folder = write_folder(small_groupvit(), tmp_path / 'model', 'safetensors')
    push(folder, NAME)
    pushed = PGSegInferencer(f'hf-hub:{NAME}', device='cpu')
    assert pushed.model.test_cfg == PGSegInferencer(small_config(), folder, 'cpu').model.test_cfg
