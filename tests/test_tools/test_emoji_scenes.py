"""The command that makes captioned scenes of emoji graphics on textures."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emoji_runs import FOLDER, MISSING
from prepared_processes import run_python

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')
SCRIPT = FOLDER / 'emoji_scenes.py'


def run(out: Path, *options: object) -> subprocess.CompletedProcess:
    return run_python([SCRIPT, out, *options])


def make(tool, out: Path, *options: object) -> Path:
    """Make a data set in this process."""
    settings, args = tool.parse_args([str(out), *map(str, options)])
    tool.make_dataset(settings, args.out_dir, workers=1, quiet=True)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }


def pairs(folder: Path) -> list[dict[str, str]]:
    lines = (folder / 'captions_train.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding='utf-8').splitlines()


def has_word(text: str, word: str) -> bool:
    return re.search(rf'(?<!\w){re.escape(word)}(?!\w)', text) is not None


@pytest.fixture(scope='module')
def data(tool, tmp_path_factory) -> Path:
    return make(
        tool,
        tmp_path_factory.mktemp('emoji') / 'data',
        '--num-train',
        128,
        '--num-val',
        24,
        '--num-classes',
        20,
        '--image-size',
        48,
    )


def test_layout(data):
    names = lines(data / 'classes.txt')
    objects, textures = lines(data / 'objects.txt'), lines(data / 'textures.txt')
    assert len(names) == len(set(names)) == 20
    assert names == objects + textures
    assert not any(',' in name or name != name.strip() for name in names)
    assert [p['image'] for p in pairs(data)] == [f'images/train/{i:06d}.png' for i in range(128)]
    assert len(list((data / 'images/train').iterdir())) == 128
    images = sorted(p.name for p in (data / 'images/val').iterdir())
    assert images == [f'{i:06d}.png' for i in range(24)]
    assert sorted(p.name for p in (data / 'annotations/val').iterdir()) == images
    assert not (data / 'annotations/train').exists()  # training pairs come without masks
    assert lines(data / 'held_out.txt') == []
    meta = json.loads((data / 'meta.json').read_text(encoding='utf-8'))
    assert meta['num_classes'] == 20 and meta['seed'] == 0 and meta['image_size'] == [48, 48]
    attribution = (data / 'ATTRIBUTION.md').read_text(encoding='utf-8')
    assert all(word in attribution for word in ('OpenMoji', 'CC BY-SA 4.0', 'scikit-image'))


def test_label_maps(data):
    num_objects = len(lines(data / 'objects.txt'))
    seen = set()
    for path in (data / 'annotations/val').iterdir():
        with Image.open(path) as image:
            assert image.mode == 'L'
            labels = np.asarray(image)
        assert labels.shape == (48, 48)
        assert labels.max() < 20
        present = np.unique(labels)
        assert np.count_nonzero(present >= num_objects) == 1  # one texture
        assert np.count_nonzero(present < num_objects) <= 3
        seen |= set(present.tolist())
    assert len(seen) == 20  # the scenes go through all the objects


@pytest.mark.parametrize('split', [0, 1])
def test_captions_name_what_is_there(tool, data, split):
    settings, _ = tool.parse_args([str(data / 'new'), '--num-classes', '20', '--image-size', '48'])
    composer = tool.Composer(settings)
    names = composer.vocabulary.names
    num_objects = len(composer.vocabulary.objects)
    with_texture = 0
    for index in range(60):
        scene = composer.scene(split, index)
        caption = composer.caption(split, index, scene)
        mentioned = {n for n in names[:num_objects] if has_word(caption, n)}
        labels = [p.label for p in scene.placed]
        assert len(set(labels)) == len(labels)
        assert mentioned == {names[label] for label in labels}
        assert set(np.unique(scene.labels)) == {*labels, scene.texture}
        textures = [n for n in names[num_objects:] if has_word(caption, n)]
        assert textures in ([], [names[scene.texture]])
        with_texture += bool(textures)
        assert not re.search(r'\ba [aeio]|\ban [^aeiouxh]|  |\{', caption), caption
    assert 35 <= with_texture < 60
    if split == 0:
        first = pairs(data)[0]['caption']
        assert first == composer.caption(0, 0, composer.scene(0, 0))


def test_captions_vary(data):
    captions = [p['caption'] for p in pairs(data)]
    assert len(set(captions)) >= 0.95 * len(captions)
    assert len({c.split()[0] for c in captions}) >= 6


def test_one_object_in_half_of_the_scenes(data):
    objects = lines(data / 'objects.txt')
    counts = [sum(has_word(p['caption'], n) for n in objects) for p in pairs(data)]
    assert 0.45 <= np.mean(np.equal(counts, 1)) <= 0.65
    assert set(counts) == {0, 1, 2, 3}


def test_a_scene_without_objects_is_described_by_its_texture(tool, data):
    textures = lines(data / 'textures.txt')
    objects = lines(data / 'objects.txt')
    captions = [p['caption'] for p in pairs(data)]
    alone = [c for c in captions if not any(has_word(c, name) for name in objects)]
    assert alone
    assert all(any(has_word(c, name) for name in textures) for c in alone)


def test_positions_in_captions(tool, tmp_path):
    settings, _ = tool.parse_args([str(tmp_path / 'x'), '--max-objects', '1', '--image-size', '48'])
    composer = tool.Composer(settings)
    checked = 0
    for index in range(150):
        scene = composer.scene(0, index)
        if not scene.placed:
            continue
        caption = composer.caption(0, index, scene)
        rows, columns = np.nonzero(scene.labels == scene.placed[0].label)
        for word, centre, below in (
            ('left', columns, True),
            ('right', columns, False),
            ('top', rows, True),
            ('bottom', rows, False),
        ):
            if has_word(caption, word):
                middle = (centre.min() + centre.max()) / 2
                assert (middle < 24) == below, caption
                checked += 1
    assert checked >= 10


def test_workers_do_not_change_the_output(tmp_path):
    options = ['--num-train', 60, '--num-val', 6, '--num-classes', 12, '--image-size', 32]
    one = run(tmp_path / 'one', *options, '--workers', 1)
    two = run(tmp_path / 'two', *options, '--workers', 2)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert files(tmp_path / 'one') == files(tmp_path / 'two')
    assert 'scene' in two.stderr  # the progress bar


def test_seed_changes_the_output(tool, tmp_path):
    options = ['--num-train', 8, '--num-val', 2, '--num-classes', 12, '--image-size', 32]
    one = files(make(tool, tmp_path / 'one', *options))
    two = files(make(tool, tmp_path / 'two', *options, '--seed', 1))
    assert one.keys() == two.keys()
    for name in one:
        same = name.endswith('.txt') or name == 'ATTRIBUTION.md'
        assert (one[name] == two[name]) == same, name


def test_splits_differ(data):
    train, val = data / 'images/train/000000.png', data / 'images/val/000000.png'
    assert train.read_bytes() != val.read_bytes()


@pytest.mark.parametrize(
    ('word', 'classes'),
    [
        ('dog', ['dog']),
        ('apple', ['red apple']),
        ('grass', ['grass']),
        ('Red Apple', ['red apple']),
    ],
)
def test_held_out_words(tool, tmp_path, word, classes):
    options = ['--num-train', 60, '--num-val', 12, '--num-classes', 12, '--image-size', 32]
    free = make(tool, tmp_path / 'free', *options)
    held = make(tool, tmp_path / 'held', *options, '--held-out', word)
    assert any(has_word(p['caption'], word.lower()) for p in pairs(free))
    assert not any(has_word(p['caption'], word.lower()) for p in pairs(held))
    assert all(p['caption'].strip() for p in pairs(held))
    assert lines(held / 'held_out.txt') == classes
    meta = json.loads((held / 'meta.json').read_text(encoding='utf-8'))
    assert meta['held_out'] == [word.lower()] and meta['held_out_classes'] == classes
    one, two = files(free), files(held)
    unchanged = [n for n in one if n.endswith('.png') or n == 'classes.txt']
    assert all(one[n] == two[n] for n in unchanged)  # the scenes themselves stay


def test_shuffled_captions(tool, data, tmp_path):
    other = make(
        tool,
        tmp_path / 'x',
        '--num-train',
        128,
        '--num-val',
        24,
        '--num-classes',
        20,
        '--image-size',
        48,
        '--shuffle-captions',
    )
    kept = [p['caption'] for p in pairs(data)]
    moved = [p['caption'] for p in pairs(other)]
    assert sorted(kept) == sorted(moved)
    assert np.mean([a == b for a, b in zip(kept, moved, strict=True)]) < 0.05
    assert [p['image'] for p in pairs(data)] == [p['image'] for p in pairs(other)]
    assert tool.shuffle(kept, 0) == moved
    assert tool.shuffle(kept, 1) != moved
    numbered = [str(i) for i in range(50)]
    assert all(a != b for a, b in zip(numbered, tool.shuffle(numbered, 3), strict=True))


def test_smallest_and_largest_vocabulary(tool, tmp_path):
    few = make(
        tool,
        tmp_path / 'few',
        '--num-train',
        2,
        '--num-val',
        1,
        '--num-classes',
        10,
        '--image-size',
        16,
    )
    assert len(set(lines(few / 'classes.txt'))) == 10
    assert len(lines(few / 'textures.txt')) == 3
    many = make(
        tool,
        tmp_path / 'many',
        '--num-train',
        2,
        '--num-val',
        2,
        '--num-classes',
        1000,
        '--image-size',
        16,
    )
    assert len(set(lines(many / 'classes.txt'))) == 1000
    with Image.open(many / 'annotations/val/000000.png') as image:
        labels = np.asarray(image)
    assert labels.dtype == np.uint16
    assert labels.max() >= 994  # textures come last


def test_image_size_of_two_numbers(tool, tmp_path):
    out = make(tool, tmp_path / 'x', '--num-train', 2, '--num-val', 1, '--image-size', 40, 64)
    for name in ('images/train/000001.png', 'images/val/000000.png', 'annotations/val/000000.png'):
        with Image.open(out / name) as image:
            assert image.size == (64, 40)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--num-classes', 9], 'from 10 to 1000'),
        (['--num-classes', 1001], 'from 10 to 1000'),
        (['--image-size', 0], 'at least 16'),
        (['--image-size', 32, 32, 3], 'at least 16'),
        (['--num-train', -1], 'negative'),
        (['--max-objects', 0], 'at least 1'),
        (['--object-scale', 0.8, 0.4], 'MIN <= MAX'),
        (['--object-count-weights', 1, 1], 'one number'),
        (['--workers', 0], 'at least 1'),
        (['--seed', -1], 'negative'),
        (['--held-out', 'bananna'], 'banana'),
        (['--held-out', 'sign', '--num-classes', 20], 'not in the vocabulary'),
    ],
)
def test_wrong_arguments(tool, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as error:
        tool.parse_args([str(tmp_path / 'x'), *map(str, options)])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


def test_words_of_the_templates_cannot_be_held_out(tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args([str(tmp_path / 'x'), '--num-classes', '1000', '--held-out', 'small'])
    assert 'captions need the word' in capsys.readouterr().err


def test_overwrite(tool, tmp_path, capsys):
    small = ['--num-train', 1, '--num-val', 1, '--image-size', 16]
    out = make(tool, tmp_path / 'x', '--num-train', 3, '--num-val', 1, '--image-size', 16)
    with pytest.raises(SystemExit):
        make(tool, out, *small)
    assert 'not empty' in capsys.readouterr().err
    assert len(list((out / 'images/train').iterdir())) == 3
    make(tool, out, *small, '--overwrite')
    assert len(list((out / 'images/train').iterdir())) == 1
    foreign = tmp_path / 'foreign'
    (foreign / 'images/train').mkdir(parents=True)
    (foreign / 'images/train/photo.jpg').write_text('mine', encoding='utf-8')
    with pytest.raises(SystemExit):
        make(tool, foreign, *small, '--overwrite')
    assert (foreign / 'images/train/photo.jpg').is_file()
