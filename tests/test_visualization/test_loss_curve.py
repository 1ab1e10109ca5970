import json
import os

import pytest
from PIL import Image

from pgseg_mm.visualization import draw_loss_curve

TRAIN = [
    {'loss': 5.0, 'loss_contrastive': 5.0, 'loss_npr_0': 0.0, 'loss_npr_1': 0.0, 'step': 10},
    {'loss': 4.5, 'loss_contrastive': 4.0, 'loss_npr_0': 0.3, 'loss_npr_1': 0.2, 'step': 20},
]
VAL = [{'aAcc': 30.0, 'mIoU': 10.0, 'mIoU_objects': 5.0, 'mIoU_textures': 20.0, 'step': 20}]


def write_log(work_dir, lines, stamp='20240101_000000'):
    path = work_dir / stamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def curves(axis):
    return {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}


def test_losses_and_validation_are_drawn(tmp_path):
    write_log(tmp_path, TRAIN + VAL)
    figure = draw_loss_curve(tmp_path, tmp_path / 'new' / 'losses.png')
    losses, ious = map(curves, figure.axes)
    assert losses == {
        'contrastive': [[10, 5.0], [20, 4.0]],
        'NPR, stage 1': [[10, 0.0], [20, 0.3]],
        'NPR, stage 2': [[10, 0.0], [20, 0.2]],
    }
    assert ious == {'all classes': [[20, 10]], 'objects': [[20, 5]], 'textures': [[20, 20]]}
    with Image.open(tmp_path / 'new' / 'losses.png') as image:
        assert image.width == 800


def test_the_loss_of_words_is_named(tmp_path):
    write_log(tmp_path, [*TRAIN, {'loss': 4.0, 'loss_npr_text': 0.1, 'step': 30}])
    assert curves(draw_loss_curve(tmp_path).axes[0])['NPR, text'] == [[30, 0.1]]


def test_validations_of_runs_by_epochs_are_at_their_iterations(tmp_path):
    lines = [TRAIN[0], {'mIoU': 10.0, 'step': 1}, TRAIN[1], {'mIoU': 12.0, 'step': 2}]
    write_log(tmp_path, lines)
    figure = draw_loss_curve(tmp_path)
    assert curves(figure.axes[1]) == {'all classes': [[10, 10], [20, 12]]}


def test_a_line_that_a_kill_has_cut_is_left_out(tmp_path):
    path = write_log(tmp_path, TRAIN)
    whole = path.read_text()
    path.write_text(whole[:-9])
    assert curves(draw_loss_curve(tmp_path).axes[0])['contrastive'] == [[10, 5.0]]
    path.write_text('{"loss": 1\n' + whole)
    with pytest.raises(ValueError, match='scalars.json, line 1: no object with a step'):
        draw_loss_curve(tmp_path)


def test_without_validation_there_is_one_panel(tmp_path):
    write_log(tmp_path, TRAIN)
    assert len(draw_loss_curve(tmp_path).axes) == 1


def test_newest_run_is_taken(tmp_path):
    os.utime(write_log(tmp_path, TRAIN[:1], '20240102_000000'), (2e9, 2e9))
    os.utime(write_log(tmp_path, TRAIN, '20240103_000000'), (1e9, 1e9))
    assert curves(draw_loss_curve(tmp_path).axes[0])['contrastive'] == [[10, 5.0]]


def test_folder_of_one_run_does(tmp_path):
    write_log(tmp_path, TRAIN, 'run')
    assert len(draw_loss_curve(tmp_path / 'run').axes) == 1


def test_missing_log_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='no log of scalars in .*LocalVisBackend'):
        draw_loss_curve(tmp_path)


def test_log_without_losses_is_an_error(tmp_path):
    write_log(tmp_path, VAL)
    with pytest.raises(ValueError, match='no scalar that starts with loss_'):
        draw_loss_curve(tmp_path)
