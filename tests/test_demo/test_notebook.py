"""The notebook, with a tiny model in the place of the published weights.

Its cells are run as plain Python: a Jupyter kernel and its client would be thirty more packages,
and would do nothing else with them.
"""

import ast
import json
from pathlib import Path

import torch
from mmengine.config import Config

from model_zoo import lively_model, tiny_model_cfg
from pgseg_mm.apis.results import Segmentation

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / 'demo' / 'pgseg.ipynb').read_text(encoding='utf-8'))
CODE = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']


def tagged(tag: str) -> str:
    (cell,) = [cell for cell in CODE if tag in cell['metadata'].get('tags', [])]
    return ''.join(cell['source'])


def run_cell(source: str, names: dict) -> object:
    """Run a cell and return the value of its last line, which a notebook shows."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, 'cell', 'exec'), names)
    return eval(compile(ast.Expression(last.value), 'cell', 'eval'), names) if last else None


def test_it_is_a_notebook_that_nobody_has_run():
    assert (NOTEBOOK['nbformat'], NOTEBOOK['nbformat_minor']) == (4, 5)
    ids = [cell['id'] for cell in NOTEBOOK['cells']]
    assert len(set(ids)) == len(ids) >= 12
    assert all(cell['execution_count'] is None and cell['outputs'] == [] for cell in CODE)
    assert tagged('install').startswith('%pip install') and '\n' not in tagged('install').strip()


def test_cells_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    meta = dict(cfg=Config(dict(model=tiny_model_cfg())).pretty_text)
    torch.save(dict(state_dict=lively_model().state_dict(), meta=meta), 'tiny.pth')
    names: dict = {}
    shown = []
    for cell in CODE:
        source = ''.join(cell['source'])
        if source != tagged('install'):
            shown.append(run_cell(source, names))
        if source == tagged('parameters'):
            assert names['CHECKPOINT'] == 'groupvit-gcc-yfcc'
            names['CHECKPOINT'] = 'tiny.pth'
    pictures = [value.size for value in shown if hasattr(value, 'size')]
    assert len(pictures) == 3
    assert names['cat'].shape == (300, 451)
    assert all(isinstance(result, Segmentation) for result in names['results'])
    assert len(names['results']) == 4 and len(names['iou']) == 10
    said = capsys.readouterr().out
    assert 'groups win at least one pixel' in said and 'mIoU ' in said
