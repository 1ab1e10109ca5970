"""The converters that make label maps, on small inputs in the real layouts."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgseg_mm.text import Vocabulary

pytest.importorskip('pycocotools')
TOOLS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'
SIZE = (12, 16)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a converter in this process, and gives what it says."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def run_tool(tool: str, *arguments: object, fails: bool = False) -> str:
        arguments = (tool, *map(str, arguments), '--workers', '1')
        monkeypatch.setattr(sys, 'argv', list(arguments))
        if not fails:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
        return f'{leaving.value.code}\n{capsys.readouterr().err}'

    return run_tool


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_help_of_all(run):
    for tool in ('coco_object.py', 'lvis.py', 'imagenet_s.py'):
        assert run(tool, '--help', fails=True) == '0\n'  # the status, and nothing on stderr


# COCO-Object from COCO-Stuff


@pytest.fixture
def coco_stuff(tmp_path) -> Path:
    """Every value that COCO-Stuff's maps can have, in two maps."""
    things = [value for value in range(91) if value + 1 not in UNUSED]
    values = np.array([*things, *range(91, 182), 255], np.uint8)
    folder = tmp_path / 'annotations' / 'val2017'
    save(folder / '000000000139.png', np.resize(values, (12, 16)))
    save(folder / '000000000285.png', np.resize(values[::-1], (16, 12)))
    return tmp_path


UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def test_things_become_1_to_80_and_all_else_background(run, coco_stuff):
    said = run('coco_object.py', coco_stuff)
    assert '2 label maps' in said
    for name in ('000000000139', '000000000285'):
        folder = coco_stuff / 'annotations' / 'val2017'
        values, labels = read(folder / f'{name}.png'), read(folder / f'{name}_instanceTrainIds.png')
        expected = np.zeros_like(values)
        for label, value in enumerate(sorted({*range(91)} - {i - 1 for i in UNUSED}), start=1):
            expected[values == value] = label
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected)


def test_things_are_called_by_the_words_of_their_label(run, coco_stuff):
    """COCO's categories 1, 18, 44 and 90 are person, dog, bottle and toothbrush."""
    run('coco_object.py', coco_stuff)
    folder = coco_stuff / 'annotations' / 'val2017'
    values, labels = (
        read(folder / f'000000000139{suffix}.png') for suffix in ('', '_instanceTrainIds')
    )
    words = Vocabulary.from_file('coco_object').names
    for category, word in ((1, 'person'), (18, 'dog'), (44, 'bottle'), (90, 'toothbrush')):
        (label,) = np.unique(labels[values == category - 1])
        assert words[label] == word


def test_a_second_run_converts_the_same_maps(run, coco_stuff):
    save(coco_stuff / 'annotations' / 'val2017' / '000000000139_labelTrainIds.png', np.eye(3) > 0)
    assert '2 label maps' in run('coco_object.py', coco_stuff)
    assert '2 label maps' in run('coco_object.py', coco_stuff)


def test_maps_of_something_else_are_refused(run, coco_stuff):
    path = coco_stuff / 'annotations' / 'val2017' / '000000000285.png'
    save(path, np.full((3, 3), 11, np.uint8))
    assert f'{path} is no map of COCO-Stuff: it has the values [11]' in run(
        'coco_object.py', coco_stuff, fails=True
    )
    save(path, np.zeros((3, 3, 3), np.uint8))
    assert 'not a map of one channel' in run('coco_object.py', coco_stuff, fails=True)


def test_a_folder_without_maps_is_refused(run, tmp_path):
    assert 'unpack stuffthingmaps' in run('coco_object.py', tmp_path, fails=True)


# segments


def box(top: int, left: int, bottom: int, right: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(mask: np.ndarray) -> dict:
    """Lengths of runs, column by column, the first of zeros."""
    flat = np.concatenate([[0], mask.T.flatten(), [0]])
    changes = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {'size': list(mask.shape), 'counts': counts.tolist()}


def checkerboard() -> np.ndarray:
    return np.indices(SIZE).sum(axis=0) % 2


def annotations(categories: list[int]) -> dict:
    """A large region, a smaller one in it, one of the first's category, and faulty ones."""
    big, small = categories
    segments = [
        (1, small, box(2, 2, 5, 6)),  # before the region that covers it
        (1, big, box(0, 0, 8, 10)),
        (1, big, [*box(9, 11, 11, 13), [3, 3, 4, 4], *box(9, 14, 11, 16)]),  # two points
        (1, small, [[1, 1, 2, 2]]),  # two points
        (2, small, run_lengths(checkerboard())),
        (2, big, run_lengths(np.zeros(SIZE, int))),
        (9, big, box(0, 0, 4, 4)),  # of an image that is not there
    ]
    return {
        'images': [
            {
                'id': image,
                'height': SIZE[0],
                'width': SIZE[1],
                'file_name': f'{image:012}.jpg',
                'coco_url': f'http://images.cocodataset.org/{split}/{image:012}.jpg',
            }
            for image, split in ((1, 'train2017'), (2, 'val2017'), (3, 'val2017'))
        ],
        'annotations': [
            {'id': i, 'image_id': image, 'category_id': category, 'segmentation': segmentation}
            for i, (image, category, segmentation) in enumerate(segments)
        ],
        'categories': [{'id': category, 'name': str(category)} for category in categories],
    }


def expected_maps(big: int, small: int) -> list[np.ndarray]:
    first = np.zeros(SIZE, int)
    first[0:8, 0:10] = big
    first[9:11, 11:13] = first[9:11, 14:16] = big
    first[2:5, 2:6] = small
    return [first, checkerboard() * small, np.zeros(SIZE, int)]


LEFT_OUT = (
    'left out: 1 (annotation of an image that the file does not list)',
    'left out: 2 (polygon of fewer than three points)',
    'left out: 1 (segment without a pixel)',
)


@pytest.fixture
def lvis(tmp_path) -> Path:
    path = tmp_path / 'lvis_v1_val.json'
    path.write_text(json.dumps(annotations([1203, 300])))
    return path


NAMES = ('train2017/000000000001', 'val2017/000000000002', 'val2017/000000000003')


def test_lvis_becomes_maps_of_16_bits_with_small_segments_on_top(run, lvis, tmp_path):
    said = run('lvis.py', lvis, tmp_path / 'out')
    assert '3 label maps' in said
    assert all(line in said for line in LEFT_OUT)
    folder = tmp_path / 'out' / 'annotations' / 'val'
    for name, expected in zip(NAMES, expected_maps(1203, 300), strict=True):
        label_map = read(folder / f'{name}.png')
        assert label_map.dtype == np.uint16
        assert np.array_equal(label_map, expected)
    assert len(list(folder.rglob('*.*'))) == 3


def test_images_that_are_not_there_are_counted(run, lvis, tmp_path):
    images = tmp_path / 'images'
    save(images / 'val2017' / '000000000002.jpg', np.zeros((*SIZE, 3), np.uint8))
    said = run('lvis.py', lvis, tmp_path / 'out', '--images', images)
    assert '1 label maps' in said
    assert 'left out: 2 (image whose file was not found)' in said
    files = [path.stem for path in (tmp_path / 'out').rglob('*.png')]
    assert files == ['000000000002']
    message = run('lvis.py', lvis, tmp_path / 'out', '--images', tmp_path, fails=True)
    assert 'none of the 3 images, such as train2017/000000000001.jpg' in message


def test_several_processes_give_the_same(run, lvis, tmp_path, monkeypatch):
    run('lvis.py', lvis, tmp_path / 'one')
    monkeypatch.syspath_prepend(str(TOOLS))
    namespace = runpy.run_path(str(TOOLS / 'lvis.py'))
    namespace['write_label_maps'](lvis, tmp_path / 'two', None, 2)
    for name in NAMES:
        one, two = (tmp_path / n / 'annotations' / 'val' / f'{name}.png' for n in ('one', 'two'))
        assert one.read_bytes() == two.read_bytes()


def test_coco_object_from_instances(run, tmp_path):
    path = tmp_path / 'instances_val2017.json'
    path.write_text(json.dumps(annotations([90, 18])))  # toothbrush and dog, labels 80 and 17
    said = run('coco_object.py', tmp_path, '--instances', path)
    assert all(line in said for line in LEFT_OUT)
    for i, expected in enumerate(expected_maps(80, 17), start=1):
        label_map = read(tmp_path / 'annotations' / 'val2017' / f'{i:012}_instanceTrainIds.png')
        assert label_map.dtype == np.uint8
        assert np.array_equal(label_map, expected)
    words = Vocabulary.from_file('coco_object').names
    assert (words[80], words[17]) == ('toothbrush', 'dog')


def test_instances_of_one_name_are_refused(run, tmp_path):
    content = annotations([90, 18])
    content['images'][1]['file_name'] = 'other/000000000001.jpg'
    path = tmp_path / 'instances_val2017.json'
    path.write_text(json.dumps(content))
    said = run('coco_object.py', tmp_path, '--instances', path, fails=True)
    assert 'two images are called 000000000001' in said


def changed(change) -> str:
    content = annotations([1203, 300])
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is not JSON'),
        ('[]', 'has no list "images"'),
        ('{"images": [], "annotations": [], "categories": []}', 'lists no image'),
        (changed(lambda c: c['images'][1].update(id=1)), 'images have 2 ids; each needs one'),
        (changed(lambda c: c['categories'].append({'id': 1230})), 'give a file of version 1'),
        (changed(lambda c: c['categories'].pop()), 'is of category 300'),
        (changed(lambda c: c['categories'].append({})), 'has no number as its id'),
        (changed(lambda c: c['categories'].append(1)), 'has no number as its id'),
        (changed(lambda c: c['images'][0].update(coco_url='http://x//a.jpg')), 'one that ends in'),
        (changed(lambda c: c['images'][0].update(coco_url='http://x/../a.jpg')), 'that ends in'),
        (
            changed(lambda c: c['images'][0].update(coco_url='x/val2017/..jpg')),
            "called 'val2017/.'",
        ),
        (changed(lambda c: c['images'][0].update(coco_url='x/val2017/\0.jpg')), 'a plain name'),
        (
            changed(lambda c: c['images'][1].update(coco_url=c['images'][2]['coco_url'])),
            'two images are called val2017/000000000003',
        ),
        (changed(lambda c: c['images'][0].pop('height')), "has no 'height'"),
        (changed(lambda c: c['annotations'][4]['segmentation'].update(size=[1, 2])), '(1, 2)'),
    ],
)
def test_faulty_annotations_are_refused(run, tmp_path, text, message):
    path = tmp_path / 'lvis_v1_val.json'
    path.write_text(text)
    assert message in run('lvis.py', path, tmp_path / 'out', fails=True)
    maps = tmp_path / 'out/annotations/val/train2017'
    assert {file.parent for file in tmp_path.rglob('*.png')} <= {maps}


# ImageNet-S


WNIDS = [f'n{i:08}' for i in range(50)]


@pytest.fixture
def imagenet_s(tmp_path) -> Path:
    """A label map for each class, and ImageNet-1k's images in folders of other names."""
    root = tmp_path / 'ImageNetS50'
    for label, wnid in enumerate(WNIDS, start=1):
        mask = np.zeros((4, 5, 3), np.uint8)
        mask[0] = (label % 256, label // 256, 0)
        mask[1] = (1000 % 256, 1000 // 256, 0)
        save(root / 'validation-segmentation' / wnid / f'ILSVRC2012_val_{label:08}.png', mask)
        image = tmp_path / 'imagenet' / 'val' / 'merged' / f'ILSVRC2012_val_{label:08}.JPEG'
        save(image, np.zeros((4, 5, 3), np.uint8))
    return root


def test_images_of_imagenet_s_are_linked_and_its_labels_checked(run, imagenet_s):
    said = run('imagenet_s.py', imagenet_s, '--imagenet', imagenet_s.parent / 'imagenet')
    assert '50 images of 50 classes, all with their masks' in said
    assert 'the published split has 752' in said
    assert len(list((imagenet_s / 'validation').glob('*/*.JPEG'))) == 50
    assert run('imagenet_s.py', imagenet_s) == said


def test_what_is_no_image_is_left_out_and_counted(run, imagenet_s):
    run('imagenet_s.py', imagenet_s, '--imagenet', imagenet_s.parent / 'imagenet')
    (imagenet_s / 'validation' / WNIDS[3] / '.DS_Store').write_bytes(b'x')
    said = run('imagenet_s.py', imagenet_s)
    assert '50 images of 50 classes' in said and 'left out: 1 (files that are no images)' in said


def test_links_follow_an_imagenet_that_has_moved(run, imagenet_s):
    before, after = (imagenet_s.parent / name for name in ('imagenet', 'elsewhere'))
    said = run('imagenet_s.py', imagenet_s, '--imagenet', before)
    before.rename(after)
    assert run('imagenet_s.py', imagenet_s, '--imagenet', after) == said


@pytest.mark.parametrize(
    ('rgb', 'message'),
    [
        ((8, 0, 0), f'masks without the label of their folder {WNIDS[6]}'),
        ((0, 1, 0), 'label 256 above 50'),
    ],
)
def test_label_maps_of_another_subset_are_named(run, imagenet_s, rgb, message):
    mask = np.broadcast_to(np.array(rgb, np.uint8), (4, 5, 3))
    save(imagenet_s / 'validation-segmentation' / WNIDS[6] / 'ILSVRC2012_val_00000007.png', mask)
    imagenet = imagenet_s.parent / 'imagenet'
    said = run('imagenet_s.py', imagenet_s, '--imagenet', imagenet, fails=True)
    assert '1 of 50 images' in said
    assert message in said


def test_images_of_imagenet_s_that_lie_on_their_side_are_turned(run, imagenet_s):
    """A mask is of the image as it is seen."""
    imagenet = imagenet_s.parent / 'imagenet'
    exif = Image.Exif()
    exif[0x0112] = 6
    image = imagenet / 'val' / 'merged' / 'ILSVRC2012_val_00000004.JPEG'
    Image.new('RGB', (4, 5)).save(image, exif=exif)  # 5 x 4 when it is upright
    assert 'all with their masks' in run('imagenet_s.py', imagenet_s, '--imagenet', imagenet)
    Image.new('RGB', (5, 4)).save(image, exif=exif)
    said = run('imagenet_s.py', imagenet_s, fails=True)
    assert f'mask of another size: {WNIDS[3]}/' in said


def test_incomplete_copies_of_imagenet_s_are_named(run, imagenet_s):
    imagenet = imagenet_s.parent / 'imagenet'
    run('imagenet_s.py', imagenet_s, '--imagenet', imagenet)
    mask = imagenet_s / 'validation-segmentation' / WNIDS[3] / 'ILSVRC2012_val_00000004.png'
    mask.unlink()
    assert f'no mask: {WNIDS[3]}/' in run('imagenet_s.py', imagenet_s, fails=True)
    save(mask, np.zeros((5, 4, 3), np.uint8))
    assert f'mask of another size: {WNIDS[3]}/' in run('imagenet_s.py', imagenet_s, fails=True)
    next((imagenet / 'val' / 'merged').iterdir()).unlink()
    said = run('imagenet_s.py', imagenet_s, '--imagenet', imagenet, fails=True)
    assert 'lacks 1 of 50 images' in said
    said = run('imagenet_s.py', imagenet_s.parent, fails=True)
    assert 'must be called one of ImageNetS50, ImageNetS300, ImageNetS919' in said


def test_the_folder_of_a_subset_has_all_its_classes(run, imagenet_s):
    run('imagenet_s.py', imagenet_s, '--imagenet', imagenet_s.parent / 'imagenet')
    (imagenet_s / 'validation' / 'n99999999').mkdir()
    assert 'has 51 folders of classes, expected 50' in run('imagenet_s.py', imagenet_s, fails=True)
