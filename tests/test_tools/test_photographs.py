"""The converters of Flickr8k and DAVIS 2016, on made pictures in the real layouts."""

import json
import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from photograph_sets import (
    SPLITS,
    photograph_captions,
    photograph_name,
    write_davis,
    write_flickr8k,
)

TOOLS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a converter in this process, and gives what it says."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def run_tool(tool: str, *arguments: object, fails: bool = False) -> str:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments), '--workers', '1'])
        if not fails:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
        return f'{leaving.value.code}\n{capsys.readouterr().err}'

    return run_tool


@pytest.fixture
def flickr8k(tmp_path) -> Path:
    return write_flickr8k(tmp_path / 'Flickr8k')


def rows(out: Path, split: str) -> list[tuple[str, list[str]]]:
    lines = (out / f'captions_{split}.jsonl').read_text().splitlines()
    return [(row['image'], row['caption']) for row in map(json.loads, lines)]


def expected_rows(split: str) -> list[tuple[str, list[str]]]:
    return [(f'images/{photograph_name(n)}', photograph_captions(n)) for n in SPLITS[split]]


# Flickr8k


def test_flickr8k_as_it_is_distributed(run, flickr8k, tmp_path):
    out = tmp_path / 'out'
    said = run('flickr8k.py', flickr8k, out)
    assert said == (
        f'{out}: train: 8 photographs, 40 captions; dev: 2 photographs, 10 captions; '
        'test: 4 photographs, 20 captions\nleft out: 1 (photograph in no split)\n'
    )
    for split in SPLITS:
        assert rows(out, split) == expected_rows(split)
    original = flickr8k / 'Flicker8k_Dataset' / photograph_name(3)
    assert (out / 'images' / photograph_name(3)).read_bytes() == original.read_bytes()
    assert len(list((out / 'images').iterdir())) == 14


def test_pairs_and_photographs_can_be_read(run, flickr8k, tmp_path):
    out = tmp_path / 'out'
    run('flickr8k.py', flickr8k, out)
    common = dict(data_root=str(out), pipeline=[])
    pairs = DATASETS.build(dict(type='ImageTextDataset', ann_file='captions_train.jsonl', **common))
    images = DATASETS.build(
        dict(type='ImageTextRetrievalDataset', ann_file='captions_test.jsonl', **common)
    )
    assert (len(pairs), len(images)) == (40, 4)
    assert pairs[6]['caption'] == photograph_captions(1)[1]
    assert images[0]['text'] == photograph_captions(10)


def test_photographs_are_squeezed(run, flickr8k, tmp_path):
    out = tmp_path / 'out'
    wide = np.zeros((20, 30, 3), np.uint8)
    wide[:, 15:] = 255
    name = photograph_name(0)
    Image.fromarray(wide).save(flickr8k / 'Flicker8k_Dataset' / name, quality=95)
    run('flickr8k.py', flickr8k, out, '--size', 12)
    with Image.open(out / 'images' / name) as image:
        assert image.size == (12, 12)
        columns = np.asarray(image.convert('L')).mean(axis=0)
    assert (columns[:5] < 30).all() and (columns[7:] > 225).all()  # all of it is there


def test_photographs_may_be_in_a_tar_file(run, flickr8k, tmp_path):
    folder, tar = flickr8k / 'Flicker8k_Dataset', tmp_path / 'images.tar'
    with tarfile.open(tar, 'w') as archive:
        archive.add(folder, 'images')
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    run('flickr8k.py', flickr8k, tmp_path / 'out', '--images', tar)
    written = {path.name: path.read_bytes() for path in (tmp_path / 'out' / 'images').iterdir()}
    assert len(written) == 14 and written.items() <= contents.items()


@pytest.mark.parametrize('mode', ['w:gz', 'w:xz'])
def test_a_compressed_tar_file_is_refused(run, flickr8k, tmp_path, mode):
    with tarfile.open(tmp_path / 'images.tar', mode):
        pass
    said = run(
        'flickr8k.py', flickr8k, tmp_path / 'out', '--images', tmp_path / 'images.tar', fails=True
    )
    assert 'images.tar is compressed; unpack it, and give the folder' in said


def test_a_file_that_is_no_tar_file_is_refused(run, flickr8k, tmp_path):
    (tmp_path / 'images.tar').write_bytes(b'nothing of a tar file' * 100)
    said = run(
        'flickr8k.py', flickr8k, tmp_path / 'out', '--images', tmp_path / 'images.tar', fails=True
    )
    assert 'images.tar is no sound tar file' in said


def test_what_is_left_out_is_counted(run, flickr8k, tmp_path):
    folder, tokens = flickr8k / 'Flicker8k_Dataset', flickr8k / 'Flickr8k.token.txt'
    (folder / photograph_name(1)).unlink()
    (folder / photograph_name(2)).write_bytes(b'no image')
    lines = [
        line for line in tokens.read_text().splitlines() if not line.startswith(photograph_name(3))
    ]
    lines += ['gone.jpg.1#0\tpeople', 'no tab', f'{photograph_name(4)}#5\t ']
    tokens.write_text('\n'.join(lines))
    said = run('flickr8k.py', flickr8k, tmp_path / 'out')
    assert 'train: 5 photographs, 25 captions' in said
    assert set(said.splitlines()[1:]) == {
        'left out: 1 (photograph in no split)',
        'left out: 1 (photograph of a split that is missing)',
        'left out: 1 (photograph of a split without a caption)',
        'left out: 6 (caption of a photograph that is not there)',
        f'left out: 1 (photograph that cannot be decoded, such as {photograph_name(2)})',
        'left out: 1 (empty caption)',
        'left out: 1 (line of captions that is not NAME#NUMBER, tab, caption)',
    }
    kept = [row for n, row in enumerate(expected_rows('train')) if n not in (1, 2, 3)]
    assert rows(tmp_path / 'out', 'train') == kept


def test_photographs_are_not_written_over(run, flickr8k, tmp_path):
    photographs = flickr8k / 'Flicker8k_Dataset'
    before = {file.name: file.read_bytes() for file in photographs.iterdir()}
    photographs.rename(flickr8k / 'images')
    arguments = (flickr8k, flickr8k, '--images', flickr8k / 'images', '--size', 8)
    assert 'which would be written over' in run('flickr8k.py', *arguments, fails=True)
    after = {file.name: file.read_bytes() for file in (flickr8k / 'images').iterdir()}
    assert after == before


def test_shuffled_captions_are_those_of_other_photographs(run, flickr8k, tmp_path):
    run('flickr8k.py', flickr8k, tmp_path / 'out', '--shuffle-captions', '--seed', 1)
    right, wrong = expected_rows('train'), rows(tmp_path / 'out', 'train')
    assert [image for image, _ in wrong] == [image for image, _ in right]
    assert all(a != b for (_, a), (_, b) in zip(right, wrong, strict=True))
    assert sorted(texts for _, texts in wrong) == sorted(texts for _, texts in right)
    assert rows(tmp_path / 'out', 'test') == expected_rows('test')


@pytest.mark.parametrize(
    ('file', 'content', 'message'),
    [
        ('Flickr_8k.devImages.txt', None, 'devImages.txt does not exist; give the folder of'),
        ('Flickr_8k.devImages.txt', '\n', 'names no photograph'),
        ('Flickr_8k.devImages.txt', f'{photograph_name(0)}\n', 'is in the splits train and dev'),
        ('Flickr_8k.devImages.txt', '../secret.jpg\n', 'expected the name of a file'),
        ('Flickr_8k.devImages.txt', 'other.jpg\n', 'no photograph of the split dev is there'),
        ('Flickr8k.token.txt', 'a cat\n', 'has no line NAME#NUMBER, tab, caption'),
    ],
)
def test_faulty_files_are_named(run, flickr8k, tmp_path, file, content, message):
    if content is None:
        (flickr8k / file).unlink()
    else:
        (flickr8k / file).write_text(content)
    assert message in run('flickr8k.py', flickr8k, tmp_path / 'out', fails=True)
    assert not list((tmp_path / 'out').glob('*.jsonl'))


def test_missing_photographs_are_named(run, flickr8k, tmp_path):
    (flickr8k / 'Flicker8k_Dataset').rename(flickr8k / 'elsewhere')
    said = run('flickr8k.py', flickr8k, tmp_path / 'out', fails=True)
    assert 'Flicker8k_Dataset does not exist; unpack Flickr8k_Dataset.zip there' in said
    (flickr8k / 'elsewhere').rename(flickr8k / 'Flickr8k_Dataset')
    assert 'train: 8' in run('flickr8k.py', flickr8k, tmp_path / 'out')


# DAVIS 2016


SEQUENCES = ('dog', 'breakdance', 'horsejump-high', 'bear')


@pytest.mark.parametrize('resolution', ['480p', '.'])
def test_davis_gets_the_labels_of_its_words(run, tmp_path, resolution):
    root = write_davis(tmp_path / 'DAVIS', SEQUENCES, resolution)
    out = tmp_path / 'out'
    said = run('davis.py', root, out, '--every', 2)
    assert said.startswith(f'{out}: 6 frames with label maps; in 2 the object is ignored')
    assert 'left out: 1 (sequence that has no words here)' in said
    assert said.count('sequence that is missing: ') == 17
    dataset = DATASETS.build(
        dict(
            type='DAVISMainObjectDataset',
            data_root=str(out),
            data_prefix=dict(img_path='images', seg_map_path='annotations'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
        )
    )
    assert len(dataset) == 6
    classes = dataset.metainfo['classes']
    words = {'dog': 'dog', 'breakdance': 'person', 'horsejump-high': None}
    for item in map(dataset.__getitem__, range(6)):
        word = words[Path(item['img_path']).parent.name]
        label = 255 if word is None else classes.index(word)
        assert (item['gt_seg_map'][:, :8] == label).all()
        assert (item['gt_seg_map'][:, 8:] == 0).all()
        assert item['img'].shape == (16, 24, 3)
    names = sorted(path.name for path in (out / 'images' / 'dog').iterdir())
    assert names == ['00000.jpg', '00002.jpg']


def test_every_word_of_a_sequence_is_a_class_and_the_other_way_round(run, monkeypatch):
    tool = runpy.run_path(str(TOOLS / 'davis.py'))
    words = {word for some in tool['WORDS'].values() for word in some}
    assert words == set(DATASETS.get('DAVISMainObjectDataset').METAINFO['classes'][1:])
    assert len(tool['WORDS']) == 20 and len(words) == 15


def test_frames_of_an_earlier_run_are_not_left_behind(run, tmp_path):
    root = write_davis(tmp_path / 'DAVIS', ('dog',))
    run('davis.py', root, tmp_path / 'out')
    said = run('davis.py', root, tmp_path / 'out', '--every', 2, fails=True)
    assert 'frames that would not be written now, such as dog/00001.jpg' in said
    run('davis.py', root, tmp_path / 'out')


def test_sequences_without_a_frame_are_counted(run, tmp_path):
    root = write_davis(tmp_path / 'DAVIS', ('dog', 'camel'))
    for frame in (root / 'JPEGImages/480p/camel').iterdir():
        frame.rename(frame.with_suffix('.JPG'))
    said = run('davis.py', root, tmp_path / 'out')
    assert 'left out: 1 (sequence without a frame NAME.jpg: camel)' in said


def test_frames_without_a_mask_are_counted(run, tmp_path):
    root = write_davis(tmp_path / 'DAVIS', SEQUENCES)
    (root / 'Annotations/480p/dog/00001.png').unlink()
    assert 'left out: 1 (frame without a mask)' in run('davis.py', root, tmp_path / 'out')


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (np.full((16, 24), 38, np.uint8), 'is no mask of DAVIS 2016, which is black and white'),
        (np.zeros((8, 24), np.uint8), 'is of (8, 24) pixels (height, width), but its image of'),
    ],
)
def test_masks_of_something_else_are_refused(run, tmp_path, mask, message):
    root = write_davis(tmp_path / 'DAVIS', ('dog',))
    Image.fromarray(mask).save(root / 'Annotations/480p/dog/00001.png')
    assert message in run('davis.py', root, tmp_path / 'out', fails=True)


def test_another_folder_is_refused(run, tmp_path):
    said = run('davis.py', tmp_path, tmp_path / 'out', fails=True)
    assert 'give the folder of DAVIS 2016 that holds JPEGImages and Annotations' in said
    root = write_davis(tmp_path / 'DAVIS', ('bear',))
    assert 'has no frame of DAVIS 2016' in run('davis.py', root, tmp_path / 'out', fails=True)
