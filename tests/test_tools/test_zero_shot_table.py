"""One command evaluates a checkpoint on all benchmarks whose data are there."""

import csv
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from benchmark_zoo import BENCHMARKS, SMALL, run_test_tool, small_checkpoint
from pgseg_mm.apis.table_configs import configure
from pgseg_mm.cli.protocols import read_protocol
from pgseg_mm.cli.run_configs import SWITCHED_OFF
from pgseg_mm.cli.zero_shot_results import fingerprint

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'analysis_tools' / 'zero_shot_table.py'
CONFIG = ROOT / 'configs' / 'pgseg' / 'pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
CONFIGS = ROOT / 'configs' / 'pgseg' / 'zero_shot'
BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp('weights') / 'small.pth')


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(tmp_path / 'datasets'))
    return tmp_path / 'datasets'


def run(checkpoint: Path, work_dir: Path, *arguments: str) -> int:
    """Exit status of the tool, run in this process."""
    command = [TOOL, CONFIG, checkpoint, '--work-dir', work_dir, *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr(sys, 'argv', [*map(str, command), '--cfg-options', *SMALL])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(TOOL), run_name='__main__')
    return leaving.value.code


def test_the_table_of_another_checkpoint_is_not_overwritten(tmp_path, monkeypatch, capsys):
    one, other = tmp_path / 'seed0' / 'last.pth', tmp_path / 'seed1' / 'last.pth'
    for path in (one, other):
        path.parent.mkdir()
        small_checkpoint(path)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'work_dirs' / 'zero_shot' / f'{CONFIG.stem}_last_published'
    folder.mkdir(parents=True)
    content = json.dumps({'checkpoint': str(one)})
    (folder / 'zero_shot.json').write_text(content)
    monkeypatch.setattr(sys, 'argv', [str(TOOL), str(CONFIG), str(other)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert left.value.code == 2
    assert f'has the table of {one}; give another folder' in capsys.readouterr().err
    assert (folder / 'zero_shot.json').read_text() == content


@pytest.fixture
def evaluated(monkeypatch) -> list[str]:
    """Names of the data sets that were really evaluated."""
    names: list[str] = []
    test = Runner.test

    def counted(runner: Runner) -> dict[str, float]:
        names.append(runner.cfg.benchmark.name)
        return test(runner)

    monkeypatch.setattr(Runner, 'test', counted)
    return names


def states(work_dir: Path) -> dict[str, str]:
    table = json.loads((work_dir / 'zero_shot.json').read_text())
    return {row['name']: row['state'] for row in table['benchmarks']}


def test_scores_are_those_of_the_test_tool_and_missing_data_are_named(
    root, checkpoint, tmp_path, capsys
):
    names = ['voc21', 'cityscapes']
    for name in names:
        BY_NAME[name].write(root)
    assert run(checkpoint, tmp_path / 'table', '--benchmarks', *names, 'ade20k') == 0

    table = json.loads((tmp_path / 'table' / 'zero_shot.json').read_text())
    assert states(tmp_path / 'table') == dict(
        voc21='measured', cityscapes='measured', ade20k='missing'
    )
    markdown = (tmp_path / 'table' / 'zero_shot.md').read_text()
    with (tmp_path / 'table' / 'zero_shot.csv').open() as file:
        lines = {line['benchmark']: line for line in csv.DictReader(file)}
    for row, threshold in zip(table['benchmarks'][:2], (0.95, None), strict=True):
        benchmark = BY_NAME[row['name']]
        options = ['--cfg-options', *SMALL]
        alone = run_test_tool(benchmark.config, checkpoint, tmp_path / 'alone', *options)
        assert row['metrics'] == alone.metrics
        ious = alone.areas.intersect / alone.areas.union * 100
        assert list(row['class_iou'].values()) == ious.tolist()
        assert (row['images'], row['threshold']) == (4, threshold)
        assert row['classes'] == benchmark.num_classes
        assert float(lines[row['name']]['mIoU']) == alone.metrics['mIoU']
        assert f'| {alone.metrics["mIoU"]:.2f} |' in markdown
    assert f'ade20k was not evaluated: {root}/ade/ADEChallengeData2016' in markdown
    assert 'ade20k was not evaluated' in capsys.readouterr().out
    assert lines['ade20k']['state'] == 'missing' and not lines['ade20k']['mIoU']


def test_goes_on_where_it_stopped(root, checkpoint, tmp_path, evaluated):
    BY_NAME['voc21'].write(root)
    BY_NAME['context60'].write(root)
    work_dir = tmp_path / 'table'
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21') == 0
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21', 'context60') == 0
    assert evaluated == ['voc21', 'context60']
    assert set(states(work_dir)) == {'voc21', 'context60'}

    other = tmp_path / 'other.pth'
    weights = torch.load(checkpoint)
    weights['state_dict']['decode_head.loss_contrastive.logit_scale'] += 1
    torch.save(weights, other)
    for arguments in (
        [checkpoint, work_dir, '--thresholds', 'voc21=0.5'],
        [other, work_dir, '--thresholds', 'voc21=0.5'],
        [other, work_dir, '--thresholds', 'voc21=0.5', '--again'],
        [other, work_dir, '--thresholds', 'voc21=0.5', '--naming', 'mixture'],
    ):
        evaluated.clear()
        assert run(*arguments, '--benchmarks', 'voc21') == 0
        assert evaluated == ['voc21']
    assert 'naming by mixture' in (work_dir / 'zero_shot.md').read_text()


def test_label_maps_that_were_made_anew_are_evaluated(root, checkpoint, tmp_path, evaluated):
    BY_NAME['voc21'].write(root)
    label_map = next((root / 'VOCdevkit/VOC2012/SegmentationClass').iterdir())
    for _ in range(2):
        assert run(checkpoint, tmp_path / 'table', '--benchmarks', 'voc21') == 0
    label_map.write_bytes(label_map.read_bytes())
    assert run(checkpoint, tmp_path / 'table', '--benchmarks', 'voc21') == 0
    assert evaluated == ['voc21', 'voc21']


def test_a_result_that_was_cut_off_is_named_and_made_again(root, checkpoint, tmp_path, evaluated):
    BY_NAME['voc21'].write(root)
    work_dir = tmp_path / 'table'
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21') == 0
    kept = work_dir / 'voc21' / 'result.json'
    kept.write_text(kept.read_text()[:50])
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21') == 0
    assert evaluated == ['voc21', 'voc21']


def test_images_and_weights_that_came_later_are_evaluated(root, checkpoint, tmp_path, evaluated):
    benchmark = BY_NAME['voc21']
    benchmark.write(root)
    listed = root / benchmark.split
    names = listed.read_text()
    listed.write_text(names.split('\n')[0] + '\n')
    work_dir = tmp_path / 'table'
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21') == 0
    listed.write_text(names)
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21') == 0
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21', '--allow-partial') == 0
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21', '--allow-partial') == 0
    assert evaluated == ['voc21'] * 3


def test_label_maps_of_other_images_give_no_result(root, checkpoint, tmp_path):
    benchmark = BY_NAME['voc21']
    benchmark.write(root)
    for name in benchmark.names:
        file = root / benchmark.label_map.format(name)
        file.rename(file.with_name(f'other_{file.name}'))
    work_dir = tmp_path / 'table'
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21') == 1
    assert (
        'voc21 FAILED: LabelMapError: no image has a label map'
        in (work_dir / 'zero_shot.md').read_text()
    )
    assert not (work_dir / 'voc21' / 'result.json').exists()


def test_a_benchmark_that_fails_is_reported_and_the_rest_evaluated(root, checkpoint, tmp_path):
    BY_NAME['voc21'].write(root)
    BY_NAME['cityscapes'].write(root)
    (root / BY_NAME['voc21'].label_map.format(BY_NAME['voc21'].names[0])).write_bytes(b'no image')
    work_dir = tmp_path / 'table'
    assert run(checkpoint, work_dir, '--benchmarks', 'voc21', 'cityscapes') == 1
    assert states(work_dir) == dict(voc21='failed', cityscapes='measured')
    assert '- voc21 FAILED: ' in (work_dir / 'zero_shot.md').read_text()


def test_several_protocols_are_columns_that_say_what_they_are(
    root, checkpoint, tmp_path, evaluated, capsys
):
    BY_NAME['voc20'].write(root)
    work_dir = tmp_path / 'table'
    small = ['--benchmarks', 'voc20']
    assert run(checkpoint, work_dir, '--protocol', 'tcl', *small) == 0
    alone = json.loads((work_dir / 'zero_shot.json').read_text())
    assert alone['protocol'] == 'tcl'
    assert run(checkpoint, work_dir, '--protocol', 'tcl', 'clearclip', 'pgseg', *small) == 0
    assert evaluated == ['voc20', 'voc20']  # TCL's was kept; PGSeg's is not known

    table = json.loads((work_dir / 'zero_shot.json').read_text())
    rows = {row['protocol']: row for row in table['benchmarks']}
    assert {name: row['state'] for name, row in rows.items()} == dict(
        tcl='measured', clearclip='measured', pgseg='unknown'
    )
    assert rows['tcl']['metrics'] == alone['benchmarks'][0]['metrics']
    said = table['protocols']['clearclip']['voc20']
    assert (said['short_side'], said['window'], said['stride']) == (448, 448, 224)
    assert (said['words'], said['logit_scale']) == ('clearclip/voc20', 50)
    markdown = (work_dir / 'zero_shot.md').read_text()
    scores = [f'{rows[name]["metrics"]["mIoU"]:.2f}' for name in ('tcl', 'clearclip')]
    assert '| mIoU | tcl | clearclip | pgseg |' in markdown
    assert f'| voc20 | {scores[0]} | {scores[1]} |  |' in markdown
    assert 'voc20 by pgseg was not evaluated: the pgseg protocol is not known for it' in markdown
    for text in (markdown, capsys.readouterr().out):
        clearclip = text.partition('## The clearclip protocol')[2]
        assert '| voc20 | 448 | 448, 224 apart | `clearclip/voc20` | – | 50 | – |' in clearclip
        assert 'templates `openai80`, each of unit length before the mean' in clearclip
        assert 'PAMR, 10 iterations, dilations 1, 2, 4, 8, 12, 24' in text
    with (work_dir / 'zero_shot.csv').open() as file:
        lines = {line['protocol']: line for line in csv.DictReader(file)}
    assert lines['tcl']['words'] == 'tcl/voc20' and lines['pgseg']['state'] == 'unknown'


def test_what_the_user_sets_goes_before_the_protocol(root, checkpoint, tmp_path):
    BY_NAME['voc21'].write(root)
    work_dir = tmp_path / 'table'
    arguments = ['--protocol', 'pgseg', '--benchmarks', 'voc21', '--thresholds', 'voc21=0.5']
    off = ['--cfg-options', *(f'{key}=None' for key in ('launcher', *SWITCHED_OFF))]
    assert run(checkpoint, work_dir, *arguments, *off) == 0
    table = json.loads((work_dir / 'zero_shot.json').read_text())
    assert table['benchmarks'][0]['threshold'] == 0.5
    assert '| scores below 0.5 |' in (work_dir / 'zero_shot.md').read_text()
    (dumped,) = (work_dir / 'pgseg' / 'voc21').glob('*.py')
    cfg = Config.fromfile(dumped)
    assert cfg.model.decode_head.background_threshold == 0.5
    assert cfg.applied_protocol.protocol == 'pgseg' and 'protocol' not in cfg


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--benchmarks', 'voc22'], 'unknown benchmarks voc22; there are ade20k,'),
        (['--thresholds', 'voc21'], "--thresholds takes NAME=VALUE, got 'voc21'"),
        (['--thresholds', 'voc21=-1'], 'must be positive'),
        (['--thresholds', 'voc21=nan'], 'must be positive'),
        (['--thresholds', 'vco21=0.9'], '--thresholds: no vco21 is evaluated, but ade20k,'),
        (
            ['--benchmarks', 'voc20', '--thresholds', 'voc20=0.9'],
            'voc20 has no background class, so there is no threshold',
        ),
        (['--protocol', 'sclop'], "no protocol 'sclop'; choose one of clearclip, groupvit"),
        (['--protocol', 'tcl', 'tcl'], 'tcl is given twice'),
        (['--cfg-options', 'test_cfg.mode=whole'], 'give model.test_cfg.mode'),
    ],
)
def test_wrong_arguments(checkpoint, tmp_path, capsys, arguments, message):
    assert run(checkpoint, tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_background_without_threshold_is_refused(root, checkpoint, tmp_path, capsys):
    assert run(checkpoint, tmp_path, '--benchmarks', 'voc21') == 1  # no data at all
    config = tmp_path / 'model.py'
    config.write_text(f'_base_ = {str(CONFIG)!r}\nbackground_thresholds = dict(_delete_=True)\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(TOOL), str(config), str(checkpoint)])
        patch.chdir(tmp_path)
        with pytest.raises(SystemExit):
            runpy.run_path(str(TOOL), run_name='__main__')
    assert '--thresholds coco_object=VALUE' in capsys.readouterr().err


def test_a_threshold_is_of_its_naming_rule(root, checkpoint, tmp_path, capsys):
    with_background = ('--benchmarks', 'voc21', '--naming', 'logits')
    assert run(checkpoint, tmp_path, *with_background) == 2
    assert '--thresholds voc21=VALUE' in capsys.readouterr().err
    assert run(checkpoint, tmp_path, *with_background, '--thresholds', 'voc21=0.4') == 1
    assert run(checkpoint, tmp_path, '--benchmarks', 'voc20', '--naming', 'logits') == 1
    assert json.loads((tmp_path / 'zero_shot.json').read_text())['naming'] == 'logits'
    assert run(checkpoint, tmp_path, '--benchmarks', 'voc21') == 1
    assert json.loads((tmp_path / 'zero_shot.json').read_text())['naming'] == 'affinity'


def settings_by(tmp_path, protocol, naming=None, naming_of_config='mixture', thresholds=()):
    config = tmp_path / 'named.py'
    config.write_text(
        f'_base_ = {str(CONFIG)!r}\nmodel = dict(decode_head=dict(naming={naming_of_config!r}))\n'
    )
    args = SimpleNamespace(config=str(config), cfg_options={}, naming=naming)
    benchmarks = {
        path.stem.rpartition('_')[2]: path for path in CONFIGS.glob('*zero-shot_voc2?.py')
    }
    return configure('voc21', read_protocol(protocol), args, dict(thresholds), benchmarks)


def test_a_protocol_s_threshold_is_of_its_kind_of_scores(tmp_path):
    cfg, settings = settings_by(tmp_path, 'pgseg')
    assert cfg.model.decode_head.background_threshold == 0.95
    assert any('probabilities by another naming rule' in note for note in settings.notes)
    cfg, settings = settings_by(tmp_path, 'pgseg', naming='affinity')
    assert cfg.model.decode_head.naming == 'affinity' and not settings.notes
    with pytest.raises(ValueError, match='--naming logits finds one'):
        settings_by(tmp_path, 'pgseg', naming='logits', naming_of_config='affinity')


def test_what_would_stop_the_last_benchmark_stops_the_first(
    root, checkpoint, tmp_path, evaluated, capsys
):
    BY_NAME['voc20'].write(root)
    names = ('--benchmarks', 'voc20', 'voc21', 'context60')
    assert run(checkpoint, tmp_path / 'table', *names, '--naming', 'logits') == 2
    said = capsys.readouterr().err
    assert '--thresholds voc21=VALUE' in said and '--thresholds context60=VALUE' in said
    both = ('--protocol', 'pgseg', 'sclip', '--benchmarks', 'voc21', '--thresholds', 'voc21=0.5')
    assert run(checkpoint, tmp_path / 'table', *both) == 2
    assert 'voc21 of --thresholds would be background_threshold and prob_threshold' in (
        capsys.readouterr().err
    )
    assert not evaluated


def test_options_reach_the_thresholds_and_what_the_table_says(root, checkpoint, tmp_path):
    BY_NAME['voc21'].write(root)
    options = ('--cfg-options', 'background_thresholds.voc21=0.3')
    command = [str(TOOL), str(CONFIG), str(checkpoint), '--work-dir', str(tmp_path / 'table')]
    command += ['--benchmarks', 'voc21', *options, *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', command)
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(TOOL), run_name='__main__')
    assert leaving.value.code == 0
    table = json.loads((tmp_path / 'table' / 'zero_shot.json').read_text())
    assert table['benchmarks'][0]['threshold'] == 0.3 and table['naming'] == 'affinity'


def test_weights_of_another_model_give_no_figure(root, tmp_path, capsys):
    BY_NAME['voc20'].write(root)
    path = tmp_path / 'hf.pth'
    torch.save({'vision_model.layernorm.weight': torch.ones(2)}, path)
    assert run(path, tmp_path / 'table', '--benchmarks', 'voc20') == 2
    said = capsys.readouterr().err.rpartition('error: ')[2]
    assert 'convert it with tools/model_converters/hf_groupvit2mm.py' in said
    assert len(said) <= 600
    assert not (tmp_path / 'table' / 'voc20' / 'result.json').exists()


@pytest.fixture
def settings(tmp_path):
    """What decides on a result: a config, its words, embeddings and weights."""
    words, embeds = tmp_path / 'words.txt', tmp_path / 'embeds.npy'
    words.write_text('cat\ndog\n')
    embeds.write_bytes(b'1')
    head = dict(type='PGSegHead', class_embeds=str(embeds), note='no file ' * 99, other='\0')
    return Config(
        dict(
            model=dict(decode_head=head),
            custom_hooks=[dict(type='VocabularyHook', vocabulary=str(words))],
            test_cfg=dict(fp16=False),
        )
    )


@pytest.mark.parametrize('what', ['words', 'embeddings', 'precision', 'weights', 'nothing'])
def test_a_result_belongs_to_all_that_decides_on_it(settings, tmp_path, what):
    weights = tmp_path / 'weights.pth'
    weights.write_bytes(b'1')
    before = fingerprint(settings, str(weights))
    if what == 'words':
        (tmp_path / 'words.txt').write_text('cat\nwolf\n')
    elif what == 'embeddings':
        (tmp_path / 'embeds.npy').write_bytes(b'2')
    elif what == 'precision':
        settings.test_cfg.fp16 = True
    elif what == 'weights':
        weights.write_bytes(b'2')
    assert (fingerprint(settings, str(weights)) == before) == (what == 'nothing')


def test_words_that_are_not_there_are_refused(root, checkpoint, tmp_path, capsys):
    BY_NAME['voc21'].write(root)
    absent = ['--benchmarks', 'voc21', '--cfg-options', 'model.vocabulary=absent.txt']
    assert run(checkpoint, tmp_path / 'table', *absent) == 2
    assert 'absent.txt' in capsys.readouterr().err.splitlines()[-1]
