"""Checkpoints from a hub and from folders of Hugging Face: converted once, whole, and safely."""

import contextlib
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from PIL import Image

from groupvits import FORMATS, files_of, small_config, small_groupvit, write_folder
from hub_server import HubServer, Model, use_hub
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.apis.model import load_model
from pgseg_mm.checkpoints import hub, hugging_face_to_mm, kept, locate, sources
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint
from pgseg_mm.serialization.runner_checkpoints import load_training_checkpoint

ROOT = Path(__file__).parents[2]
NAME = 'hf-hub:tiny/safetensors'
YFCC = 'nvidia/groupvit-gcc-yfcc'


@pytest.fixture(scope='module')
def theirs():
    return small_groupvit()


@pytest.fixture(scope='module')
def folders(theirs, tmp_path_factory) -> dict[str, Path]:
    """The same model in all formats."""
    root = tmp_path_factory.mktemp('models')
    return {kind: write_folder(theirs, root / kind.replace(' ', '-'), kind) for kind in FORMATS}


@pytest.fixture(scope='module')
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def at_hub(server, folders, tmp_path, monkeypatch) -> HubServer:
    """A hub without faults, and empty caches."""
    server.models = {f'tiny/{path.name}': Model(files_of(path)) for path in folders.values()}
    server.faults = type(server.faults)()
    server.requests.clear()
    server.ranges.clear()
    use_hub(monkeypatch, server.url, tmp_path / 'home')
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 2**16)
    hasty = SimpleNamespace(**{**vars(time), 'sleep': lambda seconds: None})  # between attempts
    monkeypatch.setattr(_http, 'time', hasty)
    monkeypatch.setattr(file_download, 'time', hasty)
    return server


def start_again() -> None:
    """Forget what a process remembers."""
    hub.download.cache_clear()


def refused(source: object) -> str:
    """The sentence of a refusal."""
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(source)
    message = str(error.value)
    assert len(message) < 500 and '\n' not in message
    return message


def entries() -> list[Path]:
    return list((Path(os.environ['PGSEG_CACHE']) / 'checkpoints').glob('[!.]*.pth'))


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


def test_a_typo_names_the_nearest(at_hub):
    message = refused('hf-hub:nvidia/groupvit-gcc-yfc')
    assert f'is not on {at_hub.url}' in message and f'did you mean {YFCC}' in message


@pytest.mark.parametrize(
    'name', ['hf-hub:bert', 'hf-hub:../../etc', 'hf-hub:a/b@../../c', 'hf-hub:']
)
def test_what_is_no_name_is_refused_without_a_request(at_hub, name):
    assert 'write hf-hub:owner/name' in refused(name)
    assert not at_hub.requests


def test_a_gated_model_says_how_to_log_in(at_hub, monkeypatch):
    at_hub.models['tiny/safetensors'].token = 'secret'
    message = refused(NAME)
    assert 'hf auth login' in message and f'{at_hub.url}/tiny/safetensors' in message
    monkeypatch.setenv('HF_TOKEN', 'secret')
    assert locate(NAME).is_file()


def test_a_refusal_by_the_hub_says_how_to_log_in(at_hub):
    at_hub.faults.status = 403
    assert re.search(r'refuses .* \(403\): log in', refused(NAME))


def test_a_connection_that_is_cut_is_taken_up_where_it_was(at_hub):
    at_hub.faults.cuts = 2
    assert load_checkpoint(NAME).state_dict
    assert len(at_hub.ranges) == 2 and all(int(r[6:-1]) > 0 for r in at_hub.ranges)


def test_a_connection_that_stays_cut_leaves_nothing_that_breaks_the_next_call(at_hub, tmp_path):
    at_hub.faults.cuts = 99
    message = refused(NAME)
    assert 'could not be downloaded' in message and 'run this again' in message
    at_hub.faults.cuts = 0
    assert load_checkpoint(NAME).state_dict
    assert not list((tmp_path / 'home').rglob('*.incomplete'))


def test_wrong_bytes_stop_the_load_and_are_not_kept(at_hub):
    at_hub.faults.wrong_bytes = True
    message = refused(NAME)
    assert 'SHA-256' in message and 'run this again' in message
    assert not entries()
    at_hub.faults.wrong_bytes = False
    assert load_checkpoint(NAME).state_dict


@pytest.mark.parametrize('header', ['ETag', 'X-Linked-ETag', 'X-Repo-Commit'])
def test_headers_of_the_hub_cannot_leave_the_cache(at_hub, tmp_path, header):
    at_hub.faults.headers = {header: f'"{tmp_path}/evil"' if 'ETag' in header else '../../../evil'}
    assert f'answers with {header}' in refused(NAME)
    assert not list(tmp_path.rglob('evil*'))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'model.safetensors.index.json': b'{"weight_map": {"a": "../../evil.bin"}}'}, 'outside'),
        ({'model.safetensors.index.json': b'{"weight_map": {"a": "/etc/hosts"}}'}, 'outside'),
        ({'model.safetensors.index.json': b'{"weight_map": {"a": "b.bin"}}'}, 'lacks files'),
        ({'model.safetensors.index.json': b'<html>'}, 'is no JSON file'),
        ({}, 'has none of the files model.safetensors'),
        ({'config.json': b'{"model_type": "clip"}', 'pytorch_model.bin': b''}, "type 'clip'"),
        ({'pytorch_model.bin': pickle.dumps({'a': os.getcwd})}, 'cannot be read as a PyTorch'),
        ({'config.json': None}, 'has no config.json'),
    ],
)
def test_models_that_are_none(at_hub, folders, tmp_path, change, said):
    config = (folders['bin'] / 'config.json').read_bytes()
    files = {'config.json': config, 'README.md': b'', **change}
    at_hub.models['tiny/none'] = Model({k: v for k, v in files.items() if v is not None})
    assert said in refused('hf-hub:tiny/none')
    assert not entries() and not list(tmp_path.rglob('evil*'))


def test_weights_of_another_size_are_refused(at_hub, folders):
    state = torch.load(folders['bin'] / 'pytorch_model.bin')
    del state['vision_model.layernorm.weight']
    folder = folders['bin'].with_name('lacking')
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_bytes((folders['bin'] / 'config.json').read_bytes())
    torch.save(state, folder / 'pytorch_model.bin')
    assert '1 missing: vision_model.layernorm.weight' in refused(folder)


def test_a_pickle_runs_nothing(at_hub, tmp_path, folders):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'run'),)

    state = torch.load(folders['bin'] / 'pytorch_model.bin')
    path = tmp_path / 'pytorch_model.bin'
    torch.save({**state, 'logit_scale': Malicious()}, path)
    at_hub.models['tiny/evil'] = Model(
        {'config.json': b'{}', 'pytorch_model.bin': path.read_bytes(), 'modeling.py': b'1/0'}
    )
    assert 'holds no state dict of tensors' in refused('hf-hub:tiny/evil')
    assert not (tmp_path / 'run').exists()


def damage(path: Path, how: str) -> None:
    record = path.with_name(f'{path.name}.json')
    content = path.read_bytes()
    if how == 'half':
        path.write_bytes(content[: len(content) // 2])
    elif how == 'a bit':
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif how == 'no record':
        record.unlink()
    elif how == 'broken record':
        record.write_text('{')
    else:
        path.unlink()


@pytest.mark.parametrize('how', ['half', 'a bit', 'no record', 'broken record', 'gone'])
def test_an_entry_that_is_not_whole_is_made_anew(at_hub, folders, how):
    path = locate(folders['bin'])
    content = load_checkpoint(path).state_dict
    damage(path, how)
    again = locate(folders['bin'])
    assert again == path
    found = load_checkpoint(again).state_dict
    assert all(torch.equal(found[name], value) for name, value in content.items())
    assert not kept.is_whole(path, path) and kept.is_whole(path, Path(f'{path}.json'))


def test_changed_weights_are_converted_again(at_hub, theirs, tmp_path):
    first = locate(write_folder(theirs, tmp_path / 'model', 'safetensors'))
    write_folder(small_groupvit(1), tmp_path / 'other', 'safetensors')
    (tmp_path / 'other' / 'model.safetensors').replace(tmp_path / 'model' / 'model.safetensors')
    second = locate(tmp_path / 'model')
    assert second != first and len(entries()) == 2


def in_a_child(work) -> int:
    """Process number of a copy of this process that does some work."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            work()
            status = 0
        os._exit(status)
    return child


def test_processes_convert_once(at_hub, folders, tmp_path, monkeypatch):
    convert = sources.convert_folder

    def counted(folder, source, path):
        (tmp_path / f'conversion-{os.getpid()}').touch()
        time.sleep(0.5)
        convert(folder, source, path)

    monkeypatch.setattr(sources, 'convert_folder', counted)
    children = [in_a_child(lambda: locate(folders['bin'])) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(list(tmp_path.glob('conversion-*'))) == 1
    assert load_checkpoint(folders['bin']).state_dict


def test_a_process_that_is_killed_while_it_converts_leaves_nothing_that_counts(
    at_hub, folders, tmp_path, monkeypatch
):
    save = torch.save

    def slow(content, path):
        save(content, path)
        Path(path).write_bytes(Path(path).read_bytes()[:1000])
        (tmp_path / 'writing').touch()
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', slow)
        child = in_a_child(lambda: locate(folders['bin']))
    for _ in range(600):
        if (tmp_path / 'writing').exists():
            break
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    folder = tmp_path / 'cache' / 'checkpoints'
    assert not entries() and len(list(folder.glob('.*~*'))) == 1
    assert load_checkpoint(folders['bin']).state_dict
    assert len(entries()) == 1


@contextlib.contextmanager
def little_room(size: int):
    """No file may become larger, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_while_downloading(at_hub):
    with little_room(2**20):
        message = refused(NAME)
    assert 'is full' in message and 'HF_HOME' in message
    assert load_checkpoint(NAME).state_dict


def test_a_full_disk_while_converting(at_hub, folders):
    with little_room(2**20):
        message = refused(folders['bin'])
    assert 'cannot be written' in message and 'PGSEG_CACHE' in message
    assert load_checkpoint(folders['bin']).state_dict


def test_caches_that_cannot_be_written_to(at_hub, folders, tmp_path, monkeypatch):
    (tmp_path / 'a file').touch()
    with monkeypatch.context() as patch:
        patch.setenv('PGSEG_CACHE', str(tmp_path / 'a file' / 'cache'))
        message = refused(folders['bin'])
        assert 'cannot be written to' in message and 'set PGSEG_CACHE' in message
    with monkeypatch.context() as patch:
        patch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'a file' / 'hub'))
        message = refused(NAME)
        assert 'cannot be written to' in message and 'set HF_HOME' in message
    assert load_checkpoint(NAME).state_dict


def test_addresses_with_a_hash_in_the_name(at_hub, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    torch.save({'state_dict': {'a': torch.ones(3)}}, tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    prefix = hub.sha256_of(tmp_path / 'a.pth')[:8]
    names = [f'a-{prefix}.pth', 'b-0123abcd.pth', 'c-20230101.pth', 'd.pth']
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
