"""Zero-shot classification, through the Runner on ImageNet-1k's folders."""

import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import MODELS
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models import PGSegClassifier
from pgseg_mm.text import Vocabulary

CONFIGS = Path(__file__).parents[3] / 'configs' / 'pgseg' / 'zero_shot'
NAME = 'pgseg_vit-small-p16_zero-shot_imagenet1k'
WORDS = ['dog', 'cat', 'grass', 'sky']


def classifier(**kwargs) -> PGSegClassifier:
    torch.manual_seed(0)
    return MODELS.build({**tiny_model_cfg(**kwargs), 'type': 'PGSegClassifier'}).eval()


def similarities(model, images, words) -> torch.Tensor:
    """Cosines of images and words, by the parts of the model."""
    embeds = [
        torch.nn.functional.normalize(
            model.decode_head.image_projector(model.backbone(image[None]).tokens.mean(dim=1)),
            dim=-1,
        )
        for image in images
    ]
    return torch.cat(embeds) @ model.embed_words(words).T


def test_scores_are_softmax_of_scaled_cosines_with_the_mean_token():
    model = classifier(vocabulary=WORDS)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        samples = model.predict(images)
        expected = (similarities(model, images, WORDS) / 0.07).softmax(dim=-1)
    scores = torch.stack([sample.pred_score for sample in samples])
    torch.testing.assert_close(scores, expected)
    labels = torch.cat([sample.pred_label for sample in samples])
    assert torch.equal(labels, expected.argmax(dim=1))


def test_rules_for_pixels_are_refused():
    with pytest.raises(ValueError, match='decision is for pixels'):
        classifier(test_cfg=dict(decision=dict(prob_threshold=0.1)))


def test_images_may_be_of_several_sizes():
    model = classifier(vocabulary=WORDS)
    images = [torch.randn(3, 32, 32), torch.randn(3, 40, 24)]
    for sample, image in zip(model.predict(images), images, strict=True):
        (alone,) = model.predict(image[None])
        torch.testing.assert_close(sample.pred_score, alone.pred_score)


def test_best_synonym_counts():
    model = classifier(vocabulary=WORDS)
    words = model.predict(torch.ones(1, 3, 32, 32))[0].pred_score.log()
    model.set_vocabulary(Vocabulary((('dog', 'cat'), ('grass', 'sky'))))
    classes = model.predict(torch.ones(1, 3, 32, 32))[0].pred_score.log()
    best = words.view(2, 2).amax(dim=1)
    torch.testing.assert_close(classes[0] - classes[1], best[0] - best[1])


def test_classes_of_one_word_score_the_same():
    model = classifier()
    model.set_vocabulary(Vocabulary((('dog',), ('cat',), ('dog',)), repeats=True))
    score = model.predict(torch.randn(1, 3, 32, 32))[0].pred_score
    assert score[0] == score[2] != score[1]


def test_weights_are_those_of_the_segmentor():
    assert classifier().state_dict().keys() == tiny_model().state_dict().keys()


def test_refuses_a_background():
    head = {**tiny_model_cfg()['decode_head'], 'background_threshold': 0.5}
    with pytest.raises(ValueError, match='background_threshold=None'):
        classifier(decode_head=head)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """ImageNet-1k's validation set, all but 12 of its 1000 folders empty."""
    root = tmp_path_factory.mktemp('data')
    wnids = (resources.files('timm') / 'data' / '_info' / 'imagenet_synsets.txt').read_text()
    rng = np.random.default_rng(0)
    for label, wnid in enumerate(wnids.split()):
        folder = root / 'imagenet' / 'val' / wnid
        folder.mkdir(parents=True)
        if label % 90 == 7:
            image = rng.integers(256, size=(7, 9, 3), dtype=np.uint8)
            Image.fromarray(image).resize((270, 300)).save(folder / f'{label}.JPEG')
    return root


def run_config(root: Path, work_dir: Path, monkeypatch) -> tuple[Runner, dict, dict[str, tuple]]:
    """Test by the config with a small model: metrics, and input and scores of each image."""
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(root))
    cfg = Config.fromfile(CONFIGS / f'{NAME}.py')
    small = tiny_model_cfg(templates='simple')  # 80 templates of 1000 words take a while
    cfg.model = {**cfg.model, **small, 'type': cfg.model.type}
    cfg.test_dataloader.num_workers, cfg.test_dataloader.persistent_workers = 0, False
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    cfg.randomness = dict(seed=0)
    runner = Runner.from_cfg(cfg)
    seen = {}
    original = runner.model.predict

    def predict(images, samples):
        results = original(images, samples)
        for image, sample in zip(images, results, strict=True):
            seen[Path(sample.img_path).name] = image, sample.pred_score
        return results

    monkeypatch.setattr(runner.model, 'predict', predict)
    return runner, runner.test(), seen


def test_accuracy_by_the_unmodified_config(data_root, monkeypatch, tmp_path):
    runner, _, seen = run_config(data_root, tmp_path / 'first', monkeypatch)
    assert len(seen) == 12
    assert len(list((tmp_path / 'cache').iterdir())) == 1
    images = torch.stack([image for image, _ in seen.values()])
    assert images.shape == (12, 3, 224, 224)
    with torch.no_grad():
        cosines = similarities(runner.model, images, IMAGENET_CLASSNAMES)
    scores = torch.stack([score for _, score in seen.values()])
    torch.testing.assert_close(scores, (cosines / 0.07).softmax(dim=1))

    # four images into the folder of their best class, three into that of their fourth
    root = tmp_path / 'data'
    shutil.copytree(data_root, root)
    folders = sorted((root / 'imagenet' / 'val').iterdir())
    order = cosines.argsort(dim=1, descending=True, stable=True)
    for i, name in enumerate(seen):
        (path,) = root.rglob(name)
        if i < 7:
            path.rename(folders[order[i, 0 if i < 4 else 3]] / name)
    _, metrics, again = run_config(root, tmp_path / 'second', monkeypatch)
    assert len(again) == 12
    assert metrics['accuracy/top1'] == pytest.approx(100 * 4 / 12)
    assert metrics['accuracy/top5'] == pytest.approx(100 * 7 / 12)


def test_the_config_prepares_images_as_published(data_root, monkeypatch):
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS
    from torchvision.transforms import functional as F

    init_default_scope('mmseg')
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(data_root))
    cfg = Config.fromfile(CONFIGS / f'{NAME}.py')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    sample = dataset[3]
    path = Path(sample['data_samples'].img_path)
    with Image.open(path) as image:
        resized = F.resize(image, 256, F.InterpolationMode.BICUBIC)
    expected = np.asarray(F.center_crop(resized, 224))[..., ::-1].transpose(2, 0, 1)
    difference = np.abs(sample['inputs'].numpy().astype(int) - expected)
    assert difference.max() <= 12 and difference.mean() < 1  # decoders differ
    assert sample['data_samples'].gt_label.item() == int(path.stem)
