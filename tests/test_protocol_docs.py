"""docs/protocols.md and docs/comparison.md say what the configs say, and their commands work."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from benchmark_zoo import BENCHMARKS
from pages import ROOT, blocks, commands, read_page, section
from pgseg_mm.cli.protocol_tables import describe_protocol
from pgseg_mm.cli.protocols import protocol_names, read_protocol
from tiny_open_clip import CLIP, VISION, add_tiny_models, reference_model
from tool_runs import run_tool

PROTOCOLS = read_page('docs/protocols.md')
COMPARISON = read_page('docs/comparison.md')
COLUMNS = 'voc21 voc20 context60 context59 coco_object coco_stuff ade20k cityscapes'
AVERAGES = {'NACLIP': 42.46, 'ClearCLIP': 38.1, 'TCL': 33.9}
"""Means of the rows, as their sources have them."""
UNCHECKED = ('SCLIP', 'ProxyCLIP', 'Trident')  # their sources have no mean of these benchmarks
DATASETS = {'voc21': 'Pascal VOC 2012', 'context60': 'Pascal Context', 'coco_object': 'COCO-Object'}


@pytest.mark.parametrize('name', protocol_names())
def test_the_page_has_what_the_config_says(name):
    found = section(PROTOCOLS, name).strip().splitlines()
    assert ['### ' + name, '', *found] == describe_protocol(read_protocol(name), level=3)


def test_the_picture_names_every_protocol_once():
    (picture,) = blocks(read_page('docs/zero_shot.md'), 'mermaid')
    ways = re.findall(r'^ +[TCW]\["(.*)"\] --> ', picture, re.M)
    named = [name for way in ways for name in protocol_names() if re.search(rf'\b{name}\b', way)]
    assert len(ways) == 3 and sorted(named) == protocol_names()
    for name in protocol_names():
        (way,) = (way for way in ways if re.search(rf'\b{name}\b', way))
        settings = read_protocol(name).settings('voc21')
        kind = 'threshold' if settings.background_threshold else 'words for'
        assert (kind if settings.background_score is None else 'constant') in way


def test_the_example_of_an_own_protocol(monkeypatch, tmp_path, capsys):
    (example,) = blocks(PROTOCOLS, 'python')
    path = tmp_path / 'own.py'
    path.write_text(example.replace("'configs/", f"'{ROOT}/configs/"))
    run_tool(monkeypatch, 'tools/misc/print_protocols.py', path)
    said = capsys.readouterr().out
    assert '## mine' in said and '224, 56 apart' in said and 'probability below 0.2' in said


def rows() -> list[list[str]]:
    """Cells of the tables of the page, with the names of methods and captions filled in."""
    found = []
    for line in COMPARISON.splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if len(cells) == 11 and cells[2] in ('published', 'here'):
            if cells[0] in ('', 'the same'):
                cells[0] = found[-1][0]
            found.append(cells)
    return found


def test_figures_are_those_that_are_known_and_empty_cells_can_be_filled():
    published = {}
    for folder in ('groupvit', 'pgseg'):
        meta = yaml.safe_load((ROOT / 'configs' / folder / 'metafile.yml').read_text())
        for model in meta['Models']:
            figures = {
                result['Dataset']: result['Metrics']['mIoU']
                for result in model.get('Results') or ()
                if 'mIoU' in result['Metrics']
            }
            if figures:
                data = ', '.join(model['Metadata']['Training Data'])
                short = data.replace('Conceptual Captions 3M', 'CC3M')
                short = short.replace('Conceptual Captions 12M', 'CC12M')
                published[folder, short] = figures
    found = {}
    for method, protocol, by, *cells in rows():
        known = read_protocol(protocol.strip('`')).benchmarks
        by = by.removesuffix(', without PAMR')
        assert len(cells) == 8
        for name, cell in zip(COLUMNS.split(), cells, strict=True):
            assert (cell == '–') == (known[name] is None), (method, protocol, name)
            assert by == 'published' or cell in ('', '–'), 'nothing was measured'
        if by == 'published' and method in (*AVERAGES, *UNCHECKED):
            assert protocol == f'`{method.lower()}`'
            numbers = [float(cell) for cell in cells if cell]
            average = sum(numbers) / len(numbers)
            assert abs(average - AVERAGES.get(method, average)) < 0.07, (method, average)
        elif by == 'published':
            folder, _, data = method.partition(' (')[0].partition(', ')
            found[folder.lower(), data] = {
                DATASETS[name]: float(cell)
                for name, cell in zip(COLUMNS.split(), cells, strict=True)
                if cell != '–'
            }
            assert protocol.strip('`') == folder.lower()
    assert found == published and len(found) == 4


def test_a_row_can_be_filled_from_nothing(tmp_path, monkeypatch):
    """The steps of the page, with a miniature of Pascal VOC and a tiny CLIP of random weights."""
    vision = {**VISION, 'layers': 2}
    kind = {'text_cfg': {**CLIP, 'layers': 1, 'width': 16}, 'vision_cfg': vision}
    add_tiny_models(tmp_path, tiny=kind)
    torch.save(reference_model('tiny').state_dict(), tmp_path / 'tiny.pt')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('PGSEG_DATA_ROOT', raising=False)
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    BENCHMARKS[0].write(tmp_path / 'data')
    assert BENCHMARKS[0].name == 'voc21'

    ((_, tool, *arguments),) = commands(section(COMPARISON, 'From nothing to a row'))
    towers = [f'model.{part}' for part in ('backbone', 'text_encoder')]
    tiny = [
        *(f'{tower}.model_name=tiny' for tower in towers),
        *(f'{tower}.pretrained=tiny.pt' for tower in towers),
        *('model.decode_head.in_channels=24', 'test_dataloader.num_workers=0'),
        'model.templates=simple',  # eighty take long
    ]
    with pytest.raises(SystemExit) as leaving:
        run_tool(monkeypatch, tool, *arguments, '--cfg-options', *tiny)
    assert leaving.value.code == 0
    table = json.loads(Path('naclip/zero_shot.json').read_text())
    assert table['checkpoint'] == 'none'
    states = {row['name']: row['state'] for row in table['benchmarks']}
    assert list(states) == COLUMNS.split()
    measured = {name for name, state in states.items() if state == 'measured'}
    assert measured == {'voc21', 'voc20'}
    markdown = Path('naclip/zero_shot.md').read_text()
    row = table['benchmarks'][0]
    assert f'| voc21 | 21 | 0.1 | 4 | {row["metrics"]["mIoU"]:.2f} |' in markdown
    assert '| voc21 | 336 | whole image | `sclip/voc21` |' in markdown
    assert 'PAMR, 10 iterations, dilations 8, 16' in markdown
