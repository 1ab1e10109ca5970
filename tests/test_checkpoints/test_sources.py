"""Checkpoints from a hub and from folders of Hugging Face: converted once, and the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from groupvits import FORMATS, files_of, small_config, small_groupvit, write_folder
from hub_server import Model, entries, refused
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.apis.model import load_model
from pgseg_mm.checkpoints import hub, hugging_face_to_mm, locate, sources
from pgseg_mm.serialization.loading import load_checkpoint
from pgseg_mm.serialization.runner_checkpoints import load_training_checkpoint

ROOT = Path(__file__).parents[2]
NAME = 'hf-hub:tiny/safetensors'
YFCC = 'nvidia/groupvit-gcc-yfcc'


def start_again() -> None:
    """Forget what a process remembers."""
    hub.download.cache_clear()


@pytest.mark.parametrize('kind', FORMATS)
def test_every_format_by_name_and_as_a_folder(at_hub, folders, theirs, kind):
    expected = hugging_face_to_mm(theirs.state_dict(), theirs.config.to_dict())
    source = f'hf-hub:tiny/{folders[kind].name}'
    for found in (load_checkpoint(source), load_checkpoint(folders[kind])):
        assert found.state_dict.keys() == expected.state_dict.keys()
        for name, value in expected.state_dict.items():
            if kind == 'float16' and value.is_floating_point():
                value = value.half().float()
            assert found.state_dict[name].dtype == value.dtype
            assert torch.equal(found.state_dict[name], value), name
        noted = found.extras['meta']['pgseg_mm']['architecture']
        assert noted['num_heads'] == expected.architecture.as_dict()['num_heads']
    assert len(entries()) == 1  # the same files are converted once


@pytest.mark.parametrize('size', [(224, 224), (208, 320)])
def test_masks_are_those_of_transformers(at_hub, theirs, size):
    model, _ = load_model(small_config(), NAME, 'cpu', False)
    images = 2 * torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :4] = torch.tensor([49406, 1929, 320, 49407])
    ids[1, :3] = torch.tensor([49406, 2368, 49407])
    with torch.no_grad():
        vision = theirs.vision_model
        tokens = vision.embeddings(images, interpolate_pos_encoding=True)
        encoded = vision.encoder(tokens, output_attentions=True, return_dict=True)
        groups = vision.layernorm(encoded.last_hidden_state)
        embeds = theirs.visual_projection(groups.flatten(0, 1))
        first, last = encoded.attentions
        texts = theirs.text_projection(theirs.text_model(ids).pooler_output)
        out = model.eval().backbone(images)
        ours = model.decode_head.image_projector(out.tokens.flatten(0, 1))
        our_texts = model.decode_head.text_projector(model.text_encoder(ids).eot)
    for one, other in zip(out.assignments, (first, last), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours, embeds, atol=1e-4, rtol=0)
    torch.testing.assert_close(our_texts, texts, atol=1e-4, rtol=0)
    # the mask: each patch's group by the product of the stages, and each group's nearest word
    joint = (last @ first).argmax(1)
    words = torch.nn.functional.normalize(embeds, dim=-1) @ torch.nn.functional.normalize(texts).T
    mask = words.argmax(-1).view(2, -1).gather(1, joint)
    our_joint = (out.assignments[1] @ out.assignments[0]).argmax(1)
    our_words = torch.nn.functional.normalize(ours, dim=-1)
    our_words = our_words @ torch.nn.functional.normalize(our_texts).T
    assert torch.equal(our_words.argmax(-1).view(2, -1).gather(1, our_joint), mask)
    assert joint.unique().numel() > 1  # the comparison means something


def test_a_photograph_is_segmented_by_a_published_name(at_hub, folders):
    at_hub.models[YFCC] = Model(files_of(folders['bin']))
    inferencer = PGSegInferencer(small_config(), 'groupvit-gcc-yfcc', 'cpu')
    image = torch.randint(0, 256, (64, 80, 3), dtype=torch.uint8).numpy()
    (result,) = inferencer.stream(image, 'dog . grass')
    assert result.mask.shape == (64, 80) and result.error is None


def test_the_second_start_downloads_and_converts_nothing(at_hub, monkeypatch):
    path = locate(NAME)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(sources, 'convert_folder', None)
    at_hub.requests.clear()
    assert locate(NAME) == path and not at_hub.requests  # in a process nothing is asked again
    start_again()
    assert locate(NAME) == path
    assert [request.partition(' ')[0] for request in at_hub.requests] == ['HEAD']
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize('offline', [False, True])
def test_without_a_network_what_is_there_is_taken(at_hub, monkeypatch, offline):
    path = locate(NAME)
    start_again()
    template = 'http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
    assert locate(NAME) == path
    message = refused('hf-hub:tiny/bin')
    assert re.search(r'tiny/bin is not on this disk .* cannot be asked', message)
    assert 'HF_HUB_OFFLINE' in message and 'give its folder' in message


def test_revisions(at_hub, folders):
    other = Model(files_of(folders['float16']), revisions=('v1.0',))
    at_hub.models['tiny/float16'] = other
    assert locate('hf-hub:tiny/float16@v1.0') == locate(f'hf-hub:tiny/float16@{other.commit}')
    assert 'has no main' in refused('hf-hub:tiny/float16')
    assert 'has no v2' in refused('hf-hub:tiny/float16@v2')


def test_only_what_is_needed_is_downloaded_safetensors_first(at_hub, folders):
    files = files_of(folders['safetensors']) | files_of(folders['bin'])
    files |= {'modeling.py': b'raise SystemExit', 'flax_model.msgpack': b'', 'tf_model.h5': b''}
    at_hub.models['tiny/all'] = Model(files)
    locate('hf-hub:tiny/all')
    got = {request.rpartition('/')[2] for request in at_hub.requests if '/tiny/all/' in request}
    assert got - {at_hub.models['tiny/all'].commit} == {'config.json', 'model.safetensors'}


def test_the_licence_is_shown_once_at_the_download(at_hub, folders, monkeypatch):
    at_hub.models[YFCC] = Model(files_of(folders['safetensors']))
    at_hub.models['tiny/bin'].license = 'cc0-1.0'
    said: list[str] = []
    monkeypatch.setattr(hub, 'print_log', lambda message, logger: said.append(message))
    locate('groupvit-gcc-yfcc')
    (message,) = said
    assert message.startswith(f'hf-hub:{YFCC} is downloaded (8 MB). ')
    assert "Its licence: NVIDIA's, non-commercial, https://" in message
    start_again()
    locate('groupvit-gcc-yfcc')
    assert len(said) == 1
    locate('hf-hub:tiny/bin')
    assert said[1].endswith('Its licence: cc0-1.0')


def test_changed_weights_are_converted_again(at_hub, theirs, tmp_path):
    first = locate(write_folder(theirs, tmp_path / 'model', 'safetensors'))
    write_folder(small_groupvit(1), tmp_path / 'other', 'safetensors')
    (tmp_path / 'other' / 'model.safetensors').replace(tmp_path / 'model' / 'model.safetensors')
    second = locate(tmp_path / 'model')
    assert second != first and len(entries()) == 2


def test_addresses_with_a_hash_in_the_name(at_hub, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    torch.save({'state_dict': {'a': torch.ones(3)}}, tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    prefix = hub.sha256_of(tmp_path / 'a.pth')[:8]
    names = [f'a-{prefix}.pth', 'b-0123abcd.pth', 'c-20230101.pth', 'e-00100000.pth', 'd.pth']
    at_hub.models['tiny/files'] = Model(dict.fromkeys(names, content))
    root = f'{at_hub.url}/tiny/files/resolve/main'
    for name in (names[0], *names[2:]):
        assert load_checkpoint(f'{root}/{name}').state_dict['a'].tolist() == [1, 1, 1]
    for _ in range(2):  # what was refused is not kept
        assert 'b-0123abcd.pth is not what its name says' in refused(f'{root}/b-0123abcd.pth')
    at_hub.requests.clear()
    load_training_checkpoint(locate(f'{root}/d.pth'))
    assert not at_hub.requests


def test_a_model_of_our_own_on_the_hub_stays_as_it_is(at_hub, tmp_path, folders):
    from safetensors.torch import save_file

    state = load_checkpoint(folders['bin']).state_dict
    save_file(state, tmp_path / 'model.safetensors')
    files = {'config.json': json.dumps({'library': 'pgseg_mm'}).encode()}
    files['model.safetensors'] = (tmp_path / 'model.safetensors').read_bytes()
    at_hub.models['tiny/ours'] = Model(files)
    found = load_checkpoint('hf-hub:tiny/ours').state_dict
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


SCRIPT = """
import runpy, socket, sys

connect = socket.socket.connect
socket.socket.connect = None  # whoever asks anybody while the package is imported fails
import pgseg_mm
from pgseg_mm.checkpoints import published_models

assert published_models()
socket.socket.connect = connect
runpy.run_path(sys.argv[1], run_name='__main__')
"""


def test_a_process_of_its_own_by_the_variables_of_the_hub(at_hub, folders, tmp_path):
    at_hub.models[YFCC] = Model(files_of(folders['safetensors']), token='secret')
    small_config().dump(tmp_path / 'small.py')
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / 'a.png')
    demo = ROOT / 'demo' / 'image_demo.py'
    script = SCRIPT.replace('sys.argv[1]', repr(str(demo)))
    words = ['a.png', 'small.py', 'groupvit-gcc-yfcc', '--texts', 'dog . sky', '--device', 'cpu']
    variables = {
        'HF_ENDPOINT': at_hub.url,
        'HF_HOME': str(tmp_path / 'hub home'),
        'HF_TOKEN': 'secret',
        'PGSEG_CACHE': str(tmp_path / 'cache of ours'),
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
    }
    run = subprocess.run(
        [sys.executable, '-c', script, *words],
        env=os.environ | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "Its licence: NVIDIA's" in run.stdout + run.stderr
    assert (tmp_path / 'outputs' / 'pred' / 'a.png').is_file()
    assert list((tmp_path / 'hub home').rglob('model.safetensors'))
    assert list((tmp_path / 'cache of ours').rglob('hugging-face-*.pth'))
