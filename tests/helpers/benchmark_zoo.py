"""Miniatures of the benchmarks as they lie on the disk, and runs of tools/test.py on them.

What is said here of folders, suffixes and label ids comes from the benchmarks' own definitions, not
from the package under test.
"""

import ast
import itertools
import math
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from pgseg_mm.evaluation import ClassAreas
from pgseg_mm.models import PGSeg

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'pgseg' / 'zero_shot'
SIZES = [(40, 52), (50, 41), (46, 46), (40, 52)]
"""Heights and widths of the images of a miniature."""
IGNORED = -1
"""Class of pixels that do not count."""
WORDS = (
    'dog',
    'cat',
    'sky',
    'car',
    'sea',
    'tree',
    'wall',
    'road',
    'boat',
    'bird',
    'house',
    'horse',
)

SMALL = [
    'model.backbone.img_size=32',
    'model.backbone.embed_dims=24',
    'model.backbone.depths=(1,1,1)',
    'model.backbone.num_heads=3',
    'model.backbone.num_group_tokens=(8,8,0)',
    'model.backbone.num_output_groups=(8,8)',
    'model.backbone.prototypes.hidden_channels=16',
    'model.text_encoder.embed_dims=64',
    'model.text_encoder.num_layers=1',
    'model.decode_head.in_channels=24',
    'model.decode_head.channels=20',
    'model.decode_head.text_channels=64',
    'model.decode_head.hidden_channels=32',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'test_dataloader.dataset.serialize_data=False',
]
"""Options that shrink the model and keep the run in this process; data and metric stay."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: where its files lie, and which labels stand in them."""

    name: str
    num_classes: int
    image: str
    """Path of an image below the data root, by the image's name."""
    label_map: str
    """Path of its label map."""
    names: tuple[str, str, str, str]
    first: int = 0
    """Label of the first class in the files."""
    ignored: tuple[int, ...] = (255,)
    """Labels in the files that do not count."""
    coding: str = 'L'
    """Mode of the label maps, as Pillow names it."""
    out_ids: tuple[int, ...] | None = None
    """Ids of the classes in predictions, where they are not those of the label maps."""
    split: str | None = None
    """File with the names of the images."""
    clutter: tuple[str, ...] = ()
    """Paths of what lies beside, by the image's name."""

    @property
    def config(self) -> Path:
        return CONFIGS / f'pgseg_vit-small-p16_zero-shot_{self.name}.py'

    @property
    def labels(self) -> np.ndarray:
        """Labels of the classes in the files."""
        return self.first + np.arange(self.num_classes)

    def write(self, root: Path) -> None:
        """Make the files: all labels occur, in segments in one image, anywhere in the others."""
        rng = np.random.default_rng(self.num_classes)
        values = np.concatenate([self.labels, self.ignored])
        for index, (name, size) in enumerate(zip(self.names, SIZES, strict=True)):
            labels = np.resize(rng.permutation(values), size[0] * size[1])
            labels = (np.sort(labels) if index == 0 else rng.permutation(labels)).reshape(size)
            save(encode(labels, self.coding), root / self.label_map.format(name))
            save(Image.fromarray(scene(rng, size)), root / self.image.format(name))
            for path in self.clutter:
                save(Image.new('L', (3, 2), 77), root / path.format(name))
        if self.split is not None:
            path = root / self.split
            path.parent.mkdir(parents=True)
            path.write_text(''.join(f'{name}\n' for name in self.names))

    def truth(self, root: Path, name: str) -> np.ndarray:
        """Class of each pixel, read from the label map."""
        labels = decode(root / self.label_map.format(name), self.coding)
        classes = labels - self.first
        classes[np.isin(labels, self.ignored)] = IGNORED
        assert classes.min() >= IGNORED and classes.max() < self.num_classes
        return classes

    def output(self, folder: Path, name: str) -> Path:
        """File that ``--out`` writes the prediction to."""
        below = Path(self.image.rpartition('/')[2].format(name))
        return folder / below.with_suffix('.png')

    def prediction(self, folder: Path, name: str) -> np.ndarray:
        """Class of each pixel, read from what ``--out`` wrote."""
        ids = self.labels if self.out_ids is None else np.array(self.out_ids)
        written = decode(self.output(folder, name), 'L' if self.coding == 'P' else self.coding)
        assert np.isin(written, ids).all()
        return np.searchsorted(ids, written)


def scene(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A picture of coloured fields."""
    height, width = size
    fields = rng.integers(0, 256, (-(-height // 12), -(-width // 12), 3), dtype=np.uint8)
    return fields.repeat(12, 0).repeat(12, 1)[:height, :width]


def encode(labels: np.ndarray, coding: str) -> Image.Image:
    """A label map as an image of a mode."""
    if coding == 'RGB':
        channels = [labels % 256, labels // 256, np.zeros_like(labels)]
        return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    image = Image.fromarray(labels.astype(np.uint16 if coding == 'I;16' else np.uint8))
    if coding == 'P':
        image.putpalette(list(range(256)) * 3)
    return image


def decode(path: Path, coding: str) -> np.ndarray:
    """The labels of a file that must have a mode."""
    with Image.open(path) as image:
        assert image.mode == coding, path
        pixels = np.array(image).astype(np.int64)
    return (
        pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        if coding == 'RGB'
        else pixels
    )


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, 'JPEG' if path.suffix == '.JPEG' else None)


def count(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix (truth, prediction) of the pixels that count."""
    counted = truth != IGNORED
    pairs = truth[counted] * num_classes + prediction[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


COCO = 'coco_stuff164k'
COCO_NAMES = ('000000000139', '000000000285', '000000000632', '000000581781')
VOC = 'VOCdevkit/VOC2012'
CONTEXT = 'VOCdevkit/VOC2010'
COCO_STUFF_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
VOC_FILES: dict[str, Any] = dict(
    image=f'{VOC}/JPEGImages/{{}}.jpg',
    label_map=f'{VOC}/SegmentationClass/{{}}.png',
    names=('2007_000033', '2007_000042', '2008_000533', '2011_003276'),
    coding='P',
    split=f'{VOC}/ImageSets/Segmentation/val.txt',
    clutter=(f'{VOC}/JPEGImages/x{{}}.jpg', f'{VOC}/SegmentationObject/{{}}.png'),
)
CONTEXT_FILES: dict[str, Any] = dict(
    image=f'{CONTEXT}/JPEGImages/{{}}.jpg',
    label_map=f'{CONTEXT}/SegmentationClassContext/{{}}.png',
    names=('2008_000009', '2008_000016', '2009_005309', '2010_006086'),
    split=f'{CONTEXT}/ImageSets/SegmentationContext/val.txt',
    clutter=(f'{CONTEXT}/JPEGImages/x{{}}.jpg',),
)


def _imagenet_s(number: int, *wnids: str) -> Benchmark:
    folder = f'imagenet-s/ImageNetS{number}'
    return Benchmark(
        f'imagenet_s{number}',
        number + 1,
        image=f'{folder}/validation/{{}}.JPEG',
        label_map=f'{folder}/validation-segmentation/{{}}.png',
        names=tuple(
            f'{wnid}/ILSVRC2012_val_0000{index}236'
            for wnid, index in zip(wnids * 2, range(4), strict=True)
        ),
        ignored=(1000,),
        coding='RGB',
        clutter=(f'{folder}/test/{{}}.JPEG',),
    )


BENCHMARKS = [
    Benchmark('voc21', 21, **VOC_FILES),
    Benchmark('voc20', 20, first=1, ignored=(0, 255), **VOC_FILES),
    Benchmark('context60', 60, **CONTEXT_FILES),
    Benchmark('context59', 59, first=1, ignored=(0, 255), **CONTEXT_FILES),
    Benchmark(
        'coco_object',
        81,
        image=f'{COCO}/images/val2017/{{}}.jpg',
        label_map=f'{COCO}/annotations/val2017/{{}}_instanceTrainIds.png',
        names=COCO_NAMES,
        clutter=(
            f'{COCO}/annotations/val2017/{{}}.png',
            f'{COCO}/annotations/val2017/{{}}_labelTrainIds.png',
        ),
    ),
    Benchmark(
        'coco_stuff',
        171,
        image=f'{COCO}/images/val2017/{{}}.jpg',
        label_map=f'{COCO}/annotations/val2017/{{}}_labelTrainIds.png',
        names=COCO_NAMES,
        out_ids=tuple(np.setdiff1d(np.arange(182), COCO_STUFF_GAPS).tolist()),
        clutter=(
            f'{COCO}/annotations/val2017/{{}}.png',
            f'{COCO}/annotations/val2017/{{}}_instanceTrainIds.png',
        ),
    ),
    Benchmark(
        'ade20k',
        150,
        image='ade/ADEChallengeData2016/images/validation/{}.jpg',
        label_map='ade/ADEChallengeData2016/annotations/validation/{}.png',
        names=tuple(f'ADE_val_0000000{number}' for number in range(1, 5)),
        first=1,
        ignored=(0,),
        clutter=('ade/ADEChallengeData2016/images/training/{}.jpg',),
    ),
    Benchmark(
        'cityscapes',
        19,
        image='cityscapes/leftImg8bit/val/{}_leftImg8bit.png',
        label_map='cityscapes/gtFine/val/{}_gtFine_labelTrainIds.png',
        names=(
            'frankfurt/frankfurt_000000_000294',
            'frankfurt/frankfurt_000001_083852',
            'lindau/lindau_000000_000019',
            'munster/munster_000173_000019',
        ),
        # labelIds of road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
        # vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle
        out_ids=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
        clutter=(
            'cityscapes/gtFine/val/{}_gtFine_labelIds.png',
            'cityscapes/gtFine/val/{}_gtFine_color.png',
        ),
    ),
    _imagenet_s(50, 'n01443537', 'n04487081'),
    _imagenet_s(300, 'n01440764', 'n15075141'),
    _imagenet_s(919, 'n01440764', 'n15075141'),
    Benchmark(
        'lvis',
        1204,
        image=f'{COCO}/images/{{}}.jpg',
        label_map='lvis/annotations/val/{}.png',
        names=tuple(
            f'{split}/{name}'
            for split in ('train2017', 'val2017')
            for name in ('000000000025', '000000397133')
        ),
        ignored=(65535,),
        coding='I;16',
        clutter=(f'{COCO}/images/train2017/x{{}}.jpg',),
    ),
]


def small_checkpoint(path: Path) -> Path:
    """Random weights of the small model that tell images and words apart."""
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'models' / 'pgseg_vit-small-p16.py')
    options = dict(option.split('=') for option in SMALL if option.startswith('model.'))
    cfg.merge_from_dict({key: ast.literal_eval(value) for key, value in options.items()})
    with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope('mmseg'):
        torch.manual_seed(4)
        model = MODELS.build(cfg.model)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        _fit_batch_norms(model)
    torch.nn.init.constant_(model.decode_head.loss_contrastive.logit_scale, math.log(100))
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, path)
    return path


def _fit_batch_norms(model: PGSeg) -> None:
    """Have the projectors take out what all images, and all words, have in common."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    images = torch.randn(48, 3, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    words = [f'a photo of a {a} {b}.' for a in ['red', 'big', 'wet', 'old'] for b in WORDS]
    with torch.no_grad():
        model.train().loss(images, tokens=model.text_encoder.tokenize(words))


_RUNS = itertools.count()


class Evaluation(NamedTuple):
    """What a run of tools/test.py found."""

    metrics: dict[str, float]
    areas: ClassAreas


def run_test_tool(
    config: Path,
    checkpoint: Path,
    work_dir: Path,
    *arguments: Any,
    options: Sequence[str] = (),
    double: bool = False,
) -> Evaluation:
    """Run tools/test.py in this process, in float32 or float64.

    Args:
        config: Config file.
        checkpoint: Checkpoint file.
        work_dir: Folder for logs.
        arguments: Further arguments.
        options: Those of ``--cfg-options``.
        double: Whether to compute in float64.
    """
    runners = []
    test = Runner.test

    def kept(runner: Runner) -> dict[str, float]:
        if double:
            runner.model.double()
        runners.append((runner, test(runner)))
        return runners[-1][1]

    options = [f'experiment_name=run_{next(_RUNS)}', *options]  # mmengine's holds for a second
    command = ['test.py', config, checkpoint, '--work-dir', work_dir, *arguments]
    command += ['--cfg-options', *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr(sys, 'argv', [str(word) for word in command])
        patch.setattr(Runner, 'test', kept)
        patch.setattr(Config, 'pretty_text', 'formatting takes longer than the run')
        runpy.run_path(str(ROOT / 'tools' / 'test.py'), run_name='__main__')
    runner, metrics = runners[0]
    (metric,) = runner.test_loop.evaluator.metrics
    return Evaluation(metrics, metric.areas)
