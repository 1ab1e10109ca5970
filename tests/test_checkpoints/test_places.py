"""Every place that takes a checkpoint takes it in all forms, and does the same with it."""

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner
from mmseg.registry import MODELS
from PIL import Image
from safetensors.torch import load_file

from benchmark_zoo import BENCHMARKS, run_test_tool
from groupvits import files_of, small_config, small_groupvit, write_folder
from hub_server import HubServer, Model, use_hub
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.checkpoints import locate
from pgseg_mm.cli.run_configs import require_weights
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely
from tool_runs import refusal, run_tool

ROOT = Path(__file__).parents[2]
KINDS = ('path', 'address', 'hub', 'folder', 'name')
PRETTY_TEXT = Config.__dict__['pretty_text']
CLASSES = ['background', 'dog', 'grass', 'sky', 'car']


class Place:
    """Where the checkpoints lie in each form, and a config and images for them."""

    def __init__(self, root: Path, server: HubServer) -> None:
        self.root = root
        folder = write_folder(small_groupvit(), root / 'groupvit', 'safetensors')
        converted = locate(folder)
        files = files_of(folder)
        own = Model({'own.pth': converted.read_bytes()})
        server.models = {'tiny/model': Model(files), 'tiny/own': own}
        server.models['nvidia/groupvit-gcc-yfcc'] = Model(files)
        self.sources = {
            'path': str(converted),
            'address': f'{server.url}/tiny/own/resolve/main/own.pth',
            'hub': 'hf-hub:tiny/model@main',
            'folder': str(folder),
            'name': 'groupvit-gcc-yfcc',
        }
        self.config = self._write_config()
        self.image = root / 'images' / '0.png'
        self.expected: dict[str, Any] = {}
        """What each place makes of the file."""

    def _write_config(self) -> Path:
        rng = np.random.default_rng(0)
        for name in ('images', 'masks'):
            (self.root / name).mkdir()
        for i, size in enumerate([(48, 64), (64, 64)]):
            coarse = rng.integers(256, size=(5, 7, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(size[::-1]).save(self.root / 'images' / f'{i}.png')
            mask = rng.integers(5, size=size, dtype=np.uint8)
            Image.fromarray(mask).save(self.root / 'masks' / f'{i}.png')
        loader = dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='BaseSegDataset',
                serialize_data=False,
                data_root=str(self.root),
                data_prefix=dict(img_path='images', seg_map_path='masks'),
                metainfo=dict(classes=CLASSES),
                img_suffix='.png',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations'),
                    dict(type='PackSegInputs'),
                ],
            ),
        )
        cfg = small_config()
        cfg.model.decode_head.background_threshold = 0.5
        cfg.update(
            test_dataloader=loader,
            test_evaluator=dict(type='ZeroShotIoUMetric', iou_metrics=['mIoU']),
            test_cfg=dict(type='TestLoop'),
            custom_hooks=[dict(type='VocabularyHook')],
            visualizer=dict(type='SegLocalVisualizer', vis_backends=[]),
            work_dir=str(self.root / 'work'),
        )
        cfg.dump(self.root / 'small.py')
        return self.root / 'small.py'


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp('places')
    with pytest.MonkeyPatch.context() as patch, HubServer() as server:
        patch.setenv('PGSEG_CACHE', str(root / 'cache'))
        patch.setenv('PGSEG_DATA_ROOT', str(root / 'data'))
        patch.setenv('TORCH_HOME', str(root / 'torch'))
        patch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
        use_hub(patch, server.url, root / 'home')
        next(b for b in BENCHMARKS if b.name == 'voc20').write(root / 'data')
        yield Place(root, server)


@contextlib.contextmanager
def leaving(status: int = 0):
    """A script that ends by itself, if it says so."""
    try:
        yield
    except SystemExit as end:
        assert end.code in (None, status), end.code


def inferencer(place: Place, source: str, out: Path, monkeypatch) -> Any:
    (result,) = PGSegInferencer(str(place.config), source, 'cpu').stream(place.image, 'dog . sky')
    return result.mask


def inferencer_without_config(place: Place, source: str, out: Path, monkeypatch) -> Any:
    (result,) = PGSegInferencer(source, device='cpu').stream(place.image, 'dog . sky')
    return result.mask


def push_to_folder(place: Place, source: str, out: Path, monkeypatch) -> Any:
    monkeypatch.setattr(Config, 'pretty_text', PRETTY_TEXT)
    with leaving():
        run_tool(monkeypatch, 'tools/misc/push_to_hub.py', source, '--to-folder', out / 'pushed')
    assert 'PGSegViT' in (out / 'pushed' / 'config.py').read_text()
    return load_file(out / 'pushed' / 'model.safetensors')


def load_from(place: Place, source: str, out: Path, monkeypatch) -> Any:
    cfg = Config.fromfile(place.config)
    cfg.update(load_from=source, work_dir=str(out), experiment_name=out.name)
    require_weights(cfg)
    load_checkpoints_safely()
    return Runner.from_cfg(cfg).test()


def init_cfg(place: Place, source: str, out: Path, monkeypatch) -> Any:
    cfg = Config.fromfile(place.config).model
    load_checkpoints_safely()
    cfg.backbone.init_cfg = dict(type='Pretrained', checkpoint=source, prefix='backbone')
    model = MODELS.build(cfg)
    model.init_weights()
    return model.backbone.state_dict()


def evaluation_tool(place: Place, source: str, out: Path, monkeypatch) -> Any:
    return run_test_tool(place.config, source, out).metrics


def table(place: Place, source: str, out: Path, monkeypatch) -> Any:
    with leaving():
        arguments = [place.config, source, '--work-dir', out, '--benchmarks', 'voc20']
        settings = dict(num_workers=0, persistent_workers=False)
        settings |= {'dataset.indices': 1, 'dataset.serialize_data': False}
        options = [f'test_dataloader.{key}={value}' for key, value in settings.items()]
        tool = 'tools/analysis_tools/zero_shot_table.py'
        run_tool(monkeypatch, tool, *arguments, '--cfg-options', *options)
    (row,) = json.loads((out / 'zero_shot.json').read_text())['benchmarks']
    assert row['state'] == 'measured'
    return row['metrics']


def sweep(place: Place, source: str, out: Path, monkeypatch) -> Any:
    arguments = [place.config, source, '--thresholds', 0.1, 0.6, '--json', out / 'a.json']
    run_tool(monkeypatch, 'tools/analysis_tools/sweep_threshold.py', *arguments)
    return json.loads((out / 'a.json').read_text())['thresholds']


def diagnosis(place: Place, source: str, out: Path, monkeypatch) -> Any:
    tool = 'tools/analysis_tools/diagnose.py'
    run_tool(monkeypatch, tool, place.config, source, '--max-images', 1, '--out', out)
    return json.loads((out / 'diagnosis.json').read_text())['ways']


def embed_vocabulary(place: Place, source: str, out: Path, monkeypatch) -> Any:
    arguments = [place.config, source, '--classes', *CLASSES, '--out', out / 'embeds.npy']
    run_tool(monkeypatch, 'tools/misc/embed_vocabulary.py', *arguments)
    return np.load(out / 'embeds.npy')


def publish_model(place: Place, source: str, out: Path, monkeypatch) -> Any:
    run_tool(monkeypatch, 'tools/misc/publish_model.py', source, out / 'published.pth')
    (path,) = out.glob('published-*.pth')
    return torch.load(path)['state_dict']


def converter(place: Place, source: str, out: Path, monkeypatch) -> Any:
    with leaving():
        tool = 'tools/model_converters/mm2hf_groupvit.py'
        run_tool(monkeypatch, tool, source, out / 'back')
    return load_file(out / 'back' / 'model.safetensors')


def image_demo(place: Place, source: str, out: Path, monkeypatch) -> Any:
    with leaving():
        arguments = [place.image, place.config, source, '--texts', 'dog . sky', '--device', 'cpu']
        run_tool(monkeypatch, 'demo/image_demo.py', *arguments, '--out-dir', out)
    return np.asarray(Image.open(out / 'pred' / '0.png'))


def web_demo(place: Place, source: str, out: Path, monkeypatch) -> Any:
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'demo'), *sys.path])
    spec = importlib.util.spec_from_file_location('web_demo_here', ROOT / 'demo' / 'web_demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    served = []
    monkeypatch.setattr(module, 'serve', lambda inferencer, *_: served.append(inferencer))
    monkeypatch.setattr(module, 'require_port', lambda *_: None)
    monkeypatch.setattr(module.signal, 'signal', lambda *_: None)
    module.main([str(place.config), source, '--device', 'cpu'])
    (result,) = served[0].stream(place.image, 'dog . sky')
    return result.mask


class Exported(Exception):
    """Stands for the export, which takes long and is tested elsewhere."""


def onnx_export(place: Place, source: str, out: Path, monkeypatch) -> Any:
    def export(module, *_, **__):
        raise Exported(module.state_dict())

    monkeypatch.setattr(torch.export, 'export', export)
    embeds = out / 'embeds.npy'
    np.save(embeds, np.eye(4, 20, dtype=np.float32))
    arguments = [place.config, source, '--out', out / 'a.onnx', '--class-embeds', embeds]
    with pytest.raises(Exported) as exported:
        run_tool(monkeypatch, 'tools/deployment/pgseg2onnx.py', *arguments)
    return exported.value.args[0]


PLACES: list[Callable[[Place, str, Path, Any], Any]] = [
    inferencer,
    inferencer_without_config,
    load_from,
    init_cfg,
    evaluation_tool,
    table,
    sweep,
    diagnosis,
    embed_vocabulary,
    publish_model,
    push_to_folder,
    converter,
    onnx_export,
    image_demo,
    web_demo,
]


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict) and all(torch.is_tensor(v) for v in expected.values()):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('work', PLACES, ids=lambda work: work.__name__)
def test_every_place_takes_every_kind(place, tmp_path, monkeypatch, work, kind):
    monkeypatch.chdir(tmp_path)  # a folder of the name of a published model would go first
    monkeypatch.setattr(Config, 'pretty_text', 'formatting takes longer than the run')
    for each in ('path', kind):
        if each != 'path' or work.__name__ not in place.expected:
            (tmp_path / each).mkdir()
            found = work(place, place.sources[each], tmp_path / each, monkeypatch)
            same(found, place.expected.setdefault(work.__name__, found))
    assert len(place.expected[work.__name__])


@pytest.mark.parametrize('kind', ['hub', 'folder', 'name'])
def test_models_of_hugging_face_are_converted_to_a_file(place, tmp_path, monkeypatch, kind):
    with leaving():
        tool = 'tools/model_converters/hf_groupvit2mm.py'
        run_tool(monkeypatch, tool, place.sources[kind], tmp_path / 'a.pth')
    same(
        torch.load(tmp_path / 'a.pth')['state_dict'],
        torch.load(place.sources['path'])['state_dict'],
    )


def test_a_runner_of_anybody_takes_names_of_the_hub(place, tmp_path, monkeypatch):
    monkeypatch.setattr(
        CheckpointLoader,
        '_schemes',
        {key: value for key, value in CheckpointLoader._schemes.items() if key == 'hf-hub:'},
    )
    content = CheckpointLoader.load_checkpoint(place.sources['hub'])
    same(content['state_dict'], torch.load(place.sources['path'])['state_dict'])


@pytest.mark.parametrize(
    'tool',
    [
        'tools/test.py',
        'tools/analysis_tools/zero_shot_table.py',
        'tools/analysis_tools/sweep_threshold.py',
        'tools/analysis_tools/diagnose.py',
        'tools/misc/embed_vocabulary.py',
        'tools/deployment/pgseg2onnx.py',
        'demo/image_demo.py',
        'demo/web_demo.py',
    ],
)
def test_tools_refuse_a_typo_in_one_sentence(place, tmp_path, monkeypatch, capsys, tool):
    monkeypatch.chdir(tmp_path)
    before = [place.image] if tool == 'demo/image_demo.py' else []
    after = ['--classes', 'dog'] if 'embed' in tool else []
    names = {
        'groupvit-gcc-yfc': 'groupvit-gcc-yfcc',
        'hf-hub:nvidia/groupvit': 'nvidia/groupvit-gcc',
    }
    for name, nearest in names.items():
        said = refusal(monkeypatch, capsys, tool, *before, place.config, name, *after)
        assert f'did you mean {nearest}' in said
