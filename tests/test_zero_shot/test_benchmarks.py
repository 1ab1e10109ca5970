"""Every benchmark, by its unmodified config, on a miniature in its real layout."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.structures import SegDataSample
from PIL import Image

from benchmark_zoo import (
    BENCHMARKS,
    CONFIGS,
    IGNORED,
    SMALL,
    Benchmark,
    Evaluation,
    count,
    run_test_tool,
    small_checkpoint,
)
from pgseg_mm.evaluation import ClassAreas

BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp('weights') / 'small.pth')


class Miniature:
    """A benchmark on the disk, and what the small model finds there, computed once."""

    def __init__(self, benchmark: Benchmark, folder: Path, checkpoint: Path) -> None:
        self.benchmark, self.checkpoint = benchmark, checkpoint
        self.root, self.out, self.work_dir = folder / 'datasets', folder / 'out', folder / 'work'
        benchmark.write(self.root)

    def evaluate(self, *options: str) -> Evaluation:
        # in float64, so that no rounding tells batches of different sizes apart
        return run_test_tool(
            self.benchmark.config,
            self.checkpoint,
            self.work_dir,
            '--out',
            self.out,
            options=[*SMALL, *options],
            double=True,
        )

    @cached_property
    def one_by_one(self) -> Evaluation:
        return self.evaluate('model.test_cfg.window_batch_size=1')

    def truth(self) -> list[np.ndarray]:
        return [self.benchmark.truth(self.root, name) for name in self.benchmark.names]

    def predictions(self, folder: Path) -> list[np.ndarray]:
        return [self.benchmark.prediction(folder, name) for name in self.benchmark.names]


@pytest.fixture(scope='module', params=BENCHMARKS, ids=lambda benchmark: benchmark.name)
def miniature(request, tmp_path_factory, checkpoint) -> Iterator[Miniature]:
    made = Miniature(request.param, tmp_path_factory.mktemp(request.param.name), checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PGSEG_DATA_ROOT', str(made.root))
        yield made


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty folder of data sets that the configs know of."""
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(tmp_path / 'datasets'))
    return tmp_path / 'datasets'


def areas_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    intersect, prediction, label = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    return dict(
        intersect=intersect,
        union=prediction + label - intersect,
        prediction=prediction,
        label=label,
    )


def assert_areas(areas: ClassAreas, expected: dict[str, np.ndarray]) -> None:
    for name, area in expected.items():
        assert np.array_equal(getattr(areas, name).numpy(), area), name


def test_areas_are_those_of_the_files(miniature):
    """Counted here from the predictions and the label maps on the disk."""
    found, number = miniature.one_by_one, miniature.benchmark.num_classes
    pairs = zip(miniature.truth(), miniature.predictions(miniature.out), strict=True)
    confusion = sum(count(truth, prediction, number) for truth, prediction in pairs)

    assert_areas(found.areas, areas_of(confusion))
    assert found.areas.label.min() > 0, 'a class does not occur'
    assert (confusion.sum(0) > 0).sum() > 1, 'the model tells nothing apart'
    accuracy = 100 * confusion.trace() / confusion.sum()
    assert found.metrics['aAcc'] == pytest.approx(accuracy, abs=0.005)
    files = {path for path in miniature.out.rglob('*') if path.is_file()}
    benchmark = miniature.benchmark
    assert files == {benchmark.output(miniature.out, name) for name in benchmark.names}


def test_batches_of_images_and_windows_change_nothing(miniature):
    batched = miniature.evaluate(
        'test_dataloader.batch_size=4', 'model.test_cfg.window_batch_size=3'
    )
    assert_areas(batched.areas, miniature.one_by_one.areas._asdict())


def evaluate_maps(miniature: Miniature, out: Path, predict) -> tuple:
    """Evaluate maps of classes, made by ``predict(truth)``, by a config's data set and metric."""
    benchmark, root = miniature.benchmark, miniature.root
    cfg = Config.fromfile(benchmark.config)
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, serialize_data=False))
    images = root / benchmark.image.partition('{}')[0]
    evaluator = Evaluator(dict(cfg.test_evaluator, output_dir=str(out), image_root=str(images)))
    evaluator.dataset_meta = dataset.metainfo
    names = {str(root / benchmark.image.format(name)): name for name in benchmark.names}
    for data in dataset:
        sample: SegDataSample = data['data_samples']
        prediction = predict(benchmark.truth(root, names.pop(sample.img_path)))
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(prediction)[None])
        evaluator.process(data_samples=[sample], data_batch=data)
    assert not names
    return evaluator.evaluate(len(dataset)), evaluator.metrics[0].areas


def test_the_truth_scores_100(miniature, tmp_path):
    last = miniature.benchmark.num_classes - 1

    def truth(classes: np.ndarray) -> np.ndarray:
        return np.where(classes == IGNORED, last, classes)

    metrics, _ = evaluate_maps(miniature, tmp_path, truth)

    assert metrics == {'aAcc': 100.0, 'mIoU': 100.0, 'mAcc': 100.0}
    for written, classes in zip(miniature.predictions(tmp_path), miniature.truth(), strict=True):
        assert np.array_equal(written, truth(classes))


@pytest.mark.parametrize('which', [0, -1])
def test_one_class_everywhere_scores_its_share(miniature, tmp_path, which):
    number = miniature.benchmark.num_classes
    label = range(number)[which]
    counted = np.concatenate([truth[truth != IGNORED] for truth in miniature.truth()])
    share = (counted == label).mean()

    metrics, areas = evaluate_maps(
        miniature, tmp_path, lambda classes: np.full_like(classes, label)
    )

    assert areas.prediction[label] == areas.prediction.sum() == counted.size
    assert areas.intersect[label] / areas.union[label] == share
    assert metrics['aAcc'] == pytest.approx(100 * share, abs=0.005)
    assert metrics['mIoU'] == pytest.approx(100 * share / number, abs=0.005)
    assert metrics['mAcc'] == pytest.approx(100 / number, abs=0.005)


@pytest.mark.parametrize(
    'name', [path.stem.rpartition('tcl_')[2] for path in sorted(CONFIGS.glob('*-tcl_*.py'))]
)
def test_the_tcl_protocol_is_another_vocabulary_on_the_same_data(name):
    published, tcl = (
        Config.fromfile(CONFIGS / f'pgseg_vit-small-p16_zero-shot{protocol}_{name}.py')
        for protocol in ('', '-tcl')
    )
    changed = {key for key in published if published[key] != tcl[key]}
    pipelines = {'test_pipeline', 'tta_pipeline', 'val_dataloader', 'test_dataloader'}
    assert changed == {'custom_hooks'} | (pipelines if name == 'cityscapes' else set())
    assert tcl.custom_hooks[0].vocabulary == f'{name}_synonyms'


def test_a_tcl_config_runs(root, checkpoint, tmp_path):
    benchmark = BY_NAME['cityscapes']
    benchmark.write(root)
    config = CONFIGS / 'pgseg_vit-small-p16_zero-shot-tcl_cityscapes.py'
    found = run_test_tool(config, checkpoint, tmp_path, options=SMALL)
    assert found.areas.label.sum() == sum(
        (benchmark.truth(root, name) != IGNORED).sum() for name in benchmark.names
    )


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        ((375, 500), (448, 597)),
        ((500, 375), (597, 448)),
        ((448, 448), (448, 448)),
        ((1024, 2048), (448, 896)),
        ((100, 457), (448, 2047)),
        ((100, 1000), (205, 2048)),
        ((3000, 30), (2048, 20)),
    ],
)
def test_short_side_is_448_unless_the_long_one_would_be_over_2048(size, expected):
    cfg = Config.fromfile(CONFIGS.parents[1] / '_base_' / 'benchmarks' / 'published_protocol.py')
    resize = next(step for step in cfg.test_pipeline if step.type == 'Resize')
    resized = TRANSFORMS.build(resize)(dict(img=np.zeros((*size, 3), np.uint8)))
    assert resized['img'].shape[:2] == expected


def test_missing_data_are_named_before_anything_is_loaded(root, checkpoint, tmp_path, capsys):
    config = BY_NAME['coco_stuff'].config
    with pytest.raises(SystemExit) as leaving:
        run_test_tool(config, checkpoint, tmp_path)
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert f'coco_stuff needs {root}/coco_stuff164k/images/val2017, ' in error
    assert 'PGSEG_DATA_ROOT' in error and "run mmseg's coco_stuff164k.py on" in error

    BY_NAME['coco_object'].write(root)  # the label maps of another benchmark
    for path in root.rglob('*_labelTrainIds.png'):
        path.unlink()
    with pytest.raises(SystemExit):
        run_test_tool(config, checkpoint, tmp_path)
    error = capsys.readouterr().err
    assert f'{root}/coco_stuff164k/annotations/val2017/*_labelTrainIds.png, which' in error


def test_missing_data_root_of_the_environment_is_told(monkeypatch, checkpoint, tmp_path, capsys):
    monkeypatch.delenv('PGSEG_DATA_ROOT', raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run_test_tool(BY_NAME['lvis'].config, checkpoint, tmp_path)
    error = capsys.readouterr().err
    assert 'lvis needs data/coco_stuff164k/images, data/lvis/annotations/val, which' in error
    assert f'(not set, so it is data in {tmp_path})' in error


@pytest.mark.parametrize('size', [(1, 1), (1, 30), (30, 1)])
def test_labelled_images_of_one_pixel_a_side_are_evaluated(root, checkpoint, tmp_path, size):
    benchmark = BY_NAME['voc21']
    benchmark.write(root)
    for name in benchmark.names:
        Image.new('RGB', size[::-1], 'red').save(root / benchmark.image.format(name))
        Image.fromarray(np.full(size, 3, np.uint8)).save(root / benchmark.label_map.format(name))
    found = run_test_tool(benchmark.config, checkpoint, tmp_path, '--cfg-options', *SMALL)
    assert found.areas.label[3] == found.areas.label.sum() == 4 * size[0] * size[1]
