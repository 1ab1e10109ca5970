"""What users rely on, as lists: names, paths, flags, keys of weights and of checkpoints."""

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import mmengine.registry
import mmseg.registry
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from mmseg.utils import register_all_modules

ROOT = Path(__file__).parents[2]
FILE = ROOT / 'tests' / 'data' / 'contracts' / 'contracts.json'
PACKAGES = ('models', 'datasets', 'apis', 'checkpoints', 'visualization', 'engine', 'evaluation')
MODELS_OF = ('configs/pgseg', 'configs/groupvit')


def registered() -> dict[str, list[str]]:
    """Names of the package's classes by the registry that has them."""
    found = {}
    registries = {**vars(mmengine.registry), **vars(mmseg.registry)}
    for name, registry in sorted(registries.items()):
        if isinstance(registry, Registry):
            table = registry.module_dict.items()
            own = sorted(k for k, v in table if v.__module__.startswith('pgseg_mm'))
            if own:
                found[name] = own
    return found


def exported() -> dict[str, list[str]]:
    """``__all__`` of the packages that users import from."""
    return {name: sorted(importlib.import_module(f'pgseg_mm.{name}').__all__) for name in PACKAGES}


def files(folder: str) -> list[str]:
    """Files below a folder of the repository, but not what is made by running them."""
    paths = (path for path in (ROOT / folder).rglob('*') if path.suffix in ('.py', '.sh', '.yml'))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def flags(script: str) -> list[str]:
    """Flags of a script, from what it says about itself."""
    path = ROOT / script
    said = io.StringIO()
    paths = [str(path.parent), *sys.path]
    with (
        mock.patch.object(sys, 'argv', [path.name, '--help']),
        mock.patch.object(sys, 'path', paths),
        mock.patch.dict(os.environ, COLUMNS='1000'),  # no flag is broken over two lines
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        runpy.run_path(str(path), run_name='__main__')
    return sorted(set(re.findall(r'(?<![\w-])--?[a-z][\w-]*', said.getvalue())))


def without_downloads(model: dict) -> dict:
    """A model's config whose open_clip towers begin at random."""
    tower = model['text_encoder']
    if tower['type'] == 'OpenCLIPTextEncoder':
        tower['pretrained'] = None
    return model


def tools() -> dict[str, list[str]]:
    """Scripts that users run, with their flags."""
    python = [path for path in files('tools') if path.endswith('.py')]
    scripts = [path for path in python if '__main__' in (ROOT / path).read_text()]
    shell = {path: [] for path in files('tools') if path.endswith('.sh')}
    return shell | {path: flags(path) for path in scripts}


def weight_shapes(config: str) -> dict[str, str]:
    """Keys of the weights of a config's model, with their shapes."""
    cfg = Config.fromfile(ROOT / config)
    model = mmseg.registry.MODELS.build(without_downloads(cfg.model))
    return {key: str(tuple(value.shape)) for key, value in sorted(model.state_dict().items())}


def layout(value: Any) -> Any:
    """Keys of a nested structure, and the kinds of what they lead to."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: layout(value[key]) for key in sorted(value)}
    return type(value).__name__


def checkpoint_layout(path: Path) -> dict[str, Any]:
    """What a Runner's checkpoint holds beside its weights."""
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)  # the test has made it
    state = checkpoint['data_state']
    counts = layout(next(iter(state['counts'].values())))  # their keys name the data
    return {
        'keys': sorted(checkpoint),
        'meta': layout(checkpoint['meta']),
        'data_state': {**layout(state), 'counts': counts},
    }


def public_models() -> list[str]:
    """Configs of the published models, each architecture once."""
    return [path for folder in MODELS_OF for path in files(folder) if path.count('/') == 2]


def describe() -> dict[str, Any]:
    """All that is compared but checkpoints, which a run must make."""
    shapes: dict[str, dict[str, str] | str] = {}
    for config in (path for path in public_models() if path.endswith('.py')):
        found = weight_shapes(config)
        same = next((name for name, known in shapes.items() if known == found), None)
        shapes[config] = same or found
    return {
        'registered': registered(),
        'exported': exported(),
        'configs': files('configs'),
        'tools': tools(),
        'weights': shapes,
    }


def read() -> dict[str, Any]:
    """The list as it was written down."""
    return json.loads(FILE.read_text())


if __name__ == '__main__':
    register_all_modules(init_default_scope=True)
    import pgseg_mm  # noqa: F401

    known = read() if FILE.exists() else {}
    if len(sys.argv) > 1:
        known['checkpoint'] = checkpoint_layout(Path(sys.argv[1]))
    FILE.write_text(json.dumps({**known, **describe()}, indent=1) + '\n')
