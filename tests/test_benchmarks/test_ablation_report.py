"""The page of the ablation, from results that are made up."""

import sys
from pathlib import Path

from pages import blocks, commands

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks import ablation, ablation_cells, ablation_report, ablation_rows  # noqa: E402
from benchmarks.ablation_cells import Cell, World  # noqa: E402
from benchmarks.outputs import origin  # noqa: E402

WORLD = World.of(10, num_train=16, num_new=8)


def result(cell, own, oracle=50.0, halfway=0.0):
    ways = {way: dict(all=own, objects=own, textures=own) for way in ('affinity', 'mixture')}
    for way in ('present', 'logits'):
        ways[way] = dict(all=40.0, objects=40.0, textures=40.0)
    ways['oracle'] = dict(all=oracle, objects=oracle, textures=oracle)
    half = {way: {kind: halfway for kind in found} for way, found in ways.items()}
    return {
        'curve': [
            {'iteration': 250, 'groups_used': 4.0, 'mIoU': half},
            {'iteration': 500, 'groups_used': 5.0, 'mIoU': ways},
        ],
        'seconds': {'training': 60.0},
    }


def test_a_row_has_one_colour_in_all_panels(tmp_path, monkeypatch):
    legends = []
    monkeypatch.setattr(
        ablation_report.Canvas, 'legend', lambda _, handles, *rest, **__: legends.append(handles)
    )
    cells = [Cell(row, WORLD) for row in ('groupvit', 'pgseg', 'pastes')]
    cells += [Cell(row, WORLD, stages=2) for row in ('pgseg', 'pastes')]
    known = {cell.key: result(cell, 10.0) for cell in cells}
    assert ablation_report.draw_curves(cells, known, tmp_path / 'a.png')
    (handles,) = legends
    colours = {handle.get_label(): handle.get_color() for handle in handles}
    assert len(colours) == len({*colours.values()}) == 3


def test_a_page_names_all_commits_of_a_run(tmp_path):
    cell = Cell('pgseg', WORLD)
    known = {cell.key: {**result(cell, 10.0), **origin('ablation'), 'commits': ['a', 'b']}}
    page = ablation_report.report([cell], known, tmp_path / 'a.json', None, tmp_path / 'a.md')
    assert '- Commits: a, b\n' in page


def test_differences_are_of_the_same_seed():
    cells = [Cell(row, WORLD, seed=seed) for row in ('pgseg', 'pastes') for seed in range(4)]
    own = {'pgseg': [10, 20, 30, None], 'pastes': [15, 23, None, 99]}
    known = {
        cell.key: result(cell, float(own[cell.row][cell.seed]))
        for cell in cells
        if own[cell.row][cell.seed] is not None
    }
    table = ablation_report.Table(cells, known)
    line = next(line for line in table.lines() if line.startswith('| `pastes`'))
    # 5 and 3: mean 4, standard deviation 2 ** 0.5, standard error 1
    assert line.split(' | ')[2:4] == ['45.7 ± 46.4 (3)', '+4.0 ± 1.0 (2)']
    assert table.title == '10 classes, one grouping stage, 500 iterations'


def test_rows_that_differ_in_one_thing_stand_beside_each_other():
    assert {row for pair in ablation_rows.COMPARED for row in pair} <= {*ablation_rows.MAIN}
    rows = ('mosaics', 'mosaics_no_npr', 'both')
    cells = [Cell(row, WORLD, seed=seed) for row in rows for seed in range(3)]
    own = {'mosaics': [15, 23, 7], 'mosaics_no_npr': [10, 20, None], 'both': [1, 1, 1]}
    known = {
        cell.key: result(cell, float(own[cell.row][cell.seed]))
        for cell in cells
        if own[cell.row][cell.seed] is not None
    }
    lines = ablation_report.Table(cells, known).compared()
    (line,) = (line for line in lines if line.startswith('| `'))
    assert line.startswith('| `mosaics` | `mosaics_no_npr` | +4.0 ± 1.0 (2) |')
    assert ablation_report.Table(cells[:3], known).compared() == []


def test_variants_of_npr_are_compared_with_training_without_it(tmp_path):
    cells = [
        Cell(row, WORLD, seed=seed)
        for row in ('pgseg', 'pastes', 'pastes_no_npr', 'pastes_sinkhorn')
        for seed in (0, 1)
    ]
    own = {'pgseg': 10.0, 'pastes': 30.0, 'pastes_no_npr': 31.0, 'pastes_sinkhorn': 33.0}
    halfway = {'pastes_sinkhorn': 12.0, 'pastes_no_npr': 15.0}
    known = {
        cell.key: {
            **result(cell, own[cell.row], halfway=halfway.get(cell.row, 15.0)),
            **origin('ablation'),
            'commit': 'a',
        }
        for cell in cells
    }
    del known[cells[-1].key]  # of the variant only one seed is known

    args = ablation.parse_args(['--world', '10', '--num-train', '16', '--num-new', '8'])
    for cell in cells:
        known.get(cell.key, {}).update(row=cell.row, classes=10, stages=1)
    shown = ablation.on_the_page(args, ablation.asked_for(args), known)
    assert [cell.seed for cell in shown if cell.row == 'pastes_sinkhorn'] == [0]

    page = ablation_report.report(cells[:-1], known, tmp_path / 'a.json', None, tmp_path / 'a.md')
    main, variants = page.split('### Variants of NPR\n')
    assert 'missing' not in page and '| `pastes_sinkhorn` |' not in main
    rows = [line for line in variants.split('\n') if line.startswith('| `')]
    lines = {line.split('`')[1]: line.split(' | ') for line in rows}
    assert [*lines] == ['pastes', 'pastes_no_npr', 'pastes_sinkhorn']
    assert lines['pastes'][2:4] == ['30.0 ± 0.0', '-1.0 ± 0.0']
    assert lines['pastes_sinkhorn'][2:4] == ['33.0 (1)', '+2.0 (1)']
    last = [lines[row][-1] for row in ('pastes', 'pastes_sinkhorn')]
    assert last == ['+0.0 ± 0.0 |', '-3.0 (1) |']
    without = ablation_report.report(cells[:4], known, tmp_path / 'a.json', None, tmp_path / 'a.md')
    assert '### Variants' not in without


def test_a_row_of_ones_own_is_made_as_the_page_says(monkeypatch):
    (example,) = blocks(ablation_report.OWN_ROW, 'python')
    made = vars(ablation_rows).copy()
    exec(example, made)
    rows = made['CONTROLS']
    assert not rows.keys() & ablation_rows.ROWS.keys()
    monkeypatch.setattr(ablation_rows, 'ROWS', ablation_rows.ROWS | rows)
    monkeypatch.setattr(ablation, 'ROWS', ablation_rows.ROWS)
    monkeypatch.setattr(ablation_cells, 'ROWS', ablation_rows.ROWS)
    keys = {Cell(row, WORLD).key for row in (*rows, 'pastes', 'pgseg')}
    assert len(keys) == 4 and Cell([*rows][0], WORLD).settings['naming'] == 'mixture'
    (words,) = commands(ablation_report.OWN_ROW, 'benchmarks.ablation')
    asked = ablation.asked_for(ablation.parse_args(words[3:]))
    assert len(asked) == 4 and {cell.row for cell in asked} == {[*rows][0], 'pastes'}
