"""What grouping, naming and recognition cost, by cases that are worked out by hand."""

import math
import runpy

import pytest
import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from distributed import WORLD_SIZE, on_two_ranks
from labelled_images import sharp_model
from model_zoo import lively_model, tiny_model, tiny_model_cfg
from pages import ROOT
from pgseg_mm.engine import Diagnosis, diagnose
from pgseg_mm.errors import PreflightError
from pgseg_mm.evaluation import LabelMapError
from pgseg_mm.models import DenseCLIPHead, GroupFeatures, OpenVocabSegmentor, PGSeg, PGSegHead

A, B, C, D, IGNORED = 0, 1, 2, 3, 255
TOKENS = torch.tensor(
    [
        [0.1, 0.4, 0.2, 0.9],  # of all classes d, of a, b and c b
        [0.2, 0.9, 0.3, 0.1],  # b
        [0.9, 0.1, 0.3, 0.2],  # a
    ]
)
LABELS = torch.tensor(
    [
        [A, A, IGNORED, IGNORED],
        [A, B, IGNORED, B],
        [C, C, C, C],
        [C, A, A, A],
    ]
)
"""The left upper quarter is group 0, the right one group 1, the lower half group 2."""


class ThreeGroups(nn.Module):
    """A backbone whose groups are the same in each image."""

    patch_size = 2

    def forward(self, images: Tensor) -> GroupFeatures:
        assignment = torch.eye(3)[:, [0, 1, 2, 2]].expand(len(images), 3, 4)
        return GroupFeatures(TOKENS.expand(len(images), 3, 4), (assignment,), (), (), (2, 2))


class GroupsByColour(nn.Module):
    """A backbone with five groups, which follow the image."""

    patch_size = 4

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.tokens = torch.randn(5, 4, generator=generator)
        self.directions = torch.randn(5, 3, generator=generator)

    def forward(self, images: Tensor) -> GroupFeatures:
        patches = nn.functional.avg_pool2d(images, self.patch_size)
        logits = torch.einsum('gc,bchw->bghw', 20 * self.directions, patches)
        assignment = logits.flatten(2).softmax(dim=1)
        tokens = self.tokens.expand(len(images), 5, 4)
        return GroupFeatures(tokens, (assignment,), (), (), tuple(patches.shape[2:]))


class Labelled(Dataset):
    """Images of noise with label maps, as a data set of mmseg gives them."""

    def __init__(self, labels: list[Tensor], classes: str = 'abcd') -> None:
        self.labels = labels
        self.metainfo = {'classes': tuple(classes)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        size = tuple(self.labels[index].shape)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        sample = SegDataSample(metainfo=dict(ori_shape=size, img_path=f'{index}.png'))
        sample.gt_sem_seg = PixelData(data=self.labels[index][None])
        return dict(inputs=image, data_samples=sample)


def loader(*labels: Tensor, classes: str = 'abcd') -> DataLoader:
    data = Labelled(list(labels), classes)
    sampler = DefaultSampler(data, shuffle=False)
    return DataLoader(data, batch_size=2, sampler=sampler, collate_fn=pseudo_collate)


def hand_model(classes: int = 4, **head) -> PGSeg:
    """Three known groups, and a class for each axis of the shared space; no words."""
    model = tiny_model()
    model.backbone = ThreeGroups()
    model.decode_head = PGSegHead(
        in_channels=4,
        channels=4,
        hidden_channels=None,
        class_embeds=torch.eye(4)[:classes],
        loss_contrastive=dict(type='ImageTextContrastiveLoss', temperature=0.1),
        **{'naming': 'logits', **head},
    )
    return model.eval()


def colour_model(**test_cfg) -> PGSeg:
    model = hand_model()
    model.backbone = GroupsByColour()
    model.test_cfg = {'mode': 'whole', **test_cfg}
    return model


def exactly(values: dict[str, float | None]) -> dict:
    """Class IoUs; None stands for a class that does not occur."""
    numbers = {name: math.nan if value is None else value for name, value in values.items()}
    return {name: pytest.approx(value, nan_ok=True) for name, value in numbers.items()}


def test_an_image_by_hand():
    found = diagnose(hand_model(), loader(LABELS))
    assert (found.num_images, found.num_groups, found.used_groups) == (1, 3, 3)
    # 13 pixels have a class: a 6, b 2, c 5. Oracle names the groups a, b, c
    assert found.accuracy('oracle') == pytest.approx(100 * 9 / 13)
    oracle = {'a': 100 * 3 / 7, 'b': 50, 'c': 100 * 5 / 8, 'd': None}
    assert found.class_iou('oracle') == exactly(oracle)
    # present names them b, b, a, and free d, b, a
    assert found.accuracy('present') == pytest.approx(100 * 5 / 13)
    assert found.class_iou('present') == exactly({'a': 300 / 11, 'b': 40, 'c': 0, 'd': None})
    assert found.accuracy('logits') == pytest.approx(100 * 4 / 13)
    assert found.class_iou('logits') == exactly({'a': 300 / 11, 'b': 50, 'c': 0, 'd': 0})
    assert found.miou('logits') == found.miou('free') == pytest.approx((300 / 11 + 50) / 4)
    present = (300 / 11 + 40) / 3
    assert found.losses == pytest.approx(
        {
            'grouping': 100 - (300 / 7 + 50 + 62.5) / 3,
            'naming': (300 / 7 + 50 + 62.5) / 3 - present,
            'recognition': present - (300 / 11 + 50) / 4,
        }
    )
    first, *_ = found.counts['logits'].largest(2)
    assert first == ('c', 'a', 1.0, 5)
    # the mixture of one-hot assignments is the group's own, inside of the quarters
    assert set(found.ways) == {'oracle', 'present', 'affinity', 'logits', 'mixture'}


def test_classes_of_one_name_are_rows_of_their_own(tmp_path):
    tool = runpy.run_path(str(ROOT / 'tools' / 'analysis_tools' / 'diagnose.py'))
    found = diagnose(hand_model(), loader(LABELS, classes='abca'))
    _, rows = tool['class_rows'](found)
    assert [row[0] for row in rows] == list('abca')
    assert [row[1] for row in rows] == [6, 2, 5, 0]
    tool['draw'](found, tmp_path / 'a.png')
    assert (tmp_path / 'a.png').is_file()


def test_affinity_admits_the_classes_of_the_whole_image():
    # mean token (0.4, 0.47, 0.27, 0.4): of one class it admits b
    found = diagnose(hand_model(top_classes=1), loader(LABELS), naming='affinity')
    assert found.miou('free') == found.miou('affinity')
    assert found.class_iou('affinity') == exactly({'a': 0, 'b': 200 / 13, 'c': 0, 'd': None})
    assert found.class_iou('present')['a'] == pytest.approx(300 / 11)


def test_figures_are_those_of_all_images_together():
    other = torch.full((4, 4), D)
    found = diagnose(hand_model(), loader(LABELS, other, LABELS), namings=['logits'])
    assert found.num_images == 3
    assert found.accuracy('logits') == pytest.approx(100 * (4 + 4 + 4) / (13 + 16 + 13))
    # d is the only class of the second image, so that all is named d there
    assert found.class_iou('present')['d'] == 100
    assert diagnose(hand_model(), loader(LABELS, other, LABELS), max_images=1).num_images == 1
    assert found.ways == ('oracle', 'present', 'logits')


@pytest.mark.parametrize(
    ('labels', 'expected'),
    [
        # the softmax of group 1 over a, b, c and d is 0.99 sure of b, that of group 0 only of d
        ([[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]], [0, 2, 1]),
        # without a background in the image no group is one: of classes 1 to 4 group 0 takes 2
        ([[2, 2, 2, 2], [2, 2, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]], [2, 2, 1]),
        # where there is nothing else, all is background
        ([[0, 0, 0, 0]] * 4, [0, 0, 0]),
    ],
)
def test_a_background_is_found_by_the_threshold_if_the_image_has_one(labels, expected):
    model = hand_model(background_threshold=0.5)
    labels = torch.tensor(labels)
    found = diagnose(model, loader(labels, classes='0abcd'))
    groups = torch.tensor([[0, 0, 1, 1]] * 2 + [[2] * 4] * 2)
    right = torch.tensor(expected)[groups] == labels
    assert found.accuracy('present') == pytest.approx(100 * float(right.float().mean()))
    assert found.accuracy('oracle') == 100
    # free, group 0 is d, 4 in the list of classes
    free = torch.tensor([4, 2, 1])[groups] == labels
    assert found.accuracy('free') == pytest.approx(100 * float(free.float().mean()))


def test_present_finds_the_background_by_the_rule_that_counts():
    labels = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]])
    data = loader(labels, classes='0abcd')
    # of group 1, b has 0.9969 of all classes, and 0.9992 of a and b: affinity multiplies them
    given = dict(background_threshold=0.9965, top_classes=4)
    own = {
        rule: diagnose(hand_model(naming=rule, **given), data) for rule in ('affinity', 'logits')
    }
    assert own['affinity'].accuracy('present') < own['logits'].accuracy('present')  # b is one
    for head_rule in own:
        for rule, expected in own.items():
            found = diagnose(hand_model(naming=head_rule, **given), data, naming=rule)
            assert found.accuracy('present') == expected.accuracy('present')
            assert found.accuracy('free') == expected.accuracy('free')


def noise_labels(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(4, (1, 1, 3, 3), generator=generator)[0, 0]
        .repeat_interleave(-(-height // 3), 0)
        .repeat_interleave(-(-width // 3), 1)[:height, :width]
        for height, width in sizes
    ]


def test_no_naming_of_groups_is_right_more_often_than_the_oracle():
    labels = noise_labels((32, 32), (24, 40), (48, 32))
    found = diagnose(colour_model(), loader(*labels))
    assert found.used_groups >= 4
    for way in ('present', 'affinity', 'logits'):
        assert found.accuracy('oracle') > found.accuracy(way)


def test_predictions_stay_those_of_the_model():
    slide = dict(mode='slide', crop_size=(32, 32), stride=(16, 16), window_divisor=8)
    model = sharp_model(threshold=None)
    model.test_cfg = slide
    model.set_vocabulary(list('abcd'))
    images = [torch.randn(3, 40, 56), torch.randn(3, 4, 30)]
    metas = [dict(ori_shape=(33, 61), flip=True), dict(ori_shape=(8, 60))]
    samples = [SegDataSample(metainfo=meta) for meta in metas]
    labels = noise_labels((33, 61), (8, 60))
    rules = ('affinity', 'logits', 'mixture')
    named = model.name_groups(images, samples, labels, rules)
    windows = [len(model.windows((40, 56))), len(model.windows((8, 30)))]
    assert [len(used) for used in named.used_groups] == windows
    seen = set()
    for rule in rules:
        alone = model.with_classes(list('abcd'), naming=rule)
        expected = alone.predict(images, [sample.clone() for sample in samples])
        for number, sample in enumerate(samples):
            model.fill_sample(sample, [named.scores[rule][number]])
            assert torch.equal(sample.pred_sem_seg.data, expected[number].pred_sem_seg.data)
            seen |= set(sample.pred_sem_seg.data.unique().tolist())
    assert len(seen) > 1
    assert model.decode_head.naming == 'affinity'


@pytest.mark.parametrize(('fp16', 'downscale'), [(False, None), (True, None), (True, 2)])
def test_what_else_a_prediction_does_is_done(fp16, downscale):
    """Scores refined by the image or within windows, and half precision."""
    data = loader(*noise_labels((32, 32)))
    pamr = dict(num_iters=4, dilations=(1, 2), window_downscale=downscale)
    refined = diagnose(colour_model(pamr=pamr), data, fp16=fp16)
    plain = diagnose(colour_model(), data, fp16=fp16)
    for way in ('oracle', 'present', 'logits'):
        assert refined.accuracy(way) != plain.accuracy(way)


def test_labels_of_mirrored_images_are_mirrored():
    """The oracle knows them as they are in the image that the groups are made of."""
    model = hand_model()
    sample = SegDataSample(metainfo=dict(ori_shape=(4, 4), flip=True))
    labels = LABELS.where(LABELS != IGNORED, -1)
    named = model.name_groups(torch.zeros(1, 3, 4, 4), [sample], [labels.flip(-1)], [])
    mirrored = named.scores['oracle'][0].class_map((4, 4))
    expected = torch.tensor([[B, B, A, A]] * 2 + [[C] * 4] * 2)
    assert torch.equal(mirrored, expected)


def test_a_group_is_one_of_a_window():
    """Each window names its groups by its own pixels, and what overlaps is averaged."""
    model = hand_model()
    model.test_cfg.update(mode='slide', crop_size=(4, 4), stride=(4, 4))
    labels = torch.cat([LABELS.clamp(max=C), LABELS.new_tensor([[D] * 4] * 4)], dim=1)
    found = diagnose(model, loader(labels))
    assert found.counts['oracle'].areas[1].tolist() == [4, 0, 12, 16]
    assert (found.num_groups, found.used_groups) == (3, 3)


def on_ranks(rank: int, images: int) -> dict:
    found = diagnose(hand_model(), loader(*[LABELS.roll(i, 1) for i in range(images)]))
    return found.to_dict()


def test_ranks_find_what_one_process_finds(tmp_path):
    images = 2 * WORLD_SIZE + 1  # one of them twice, for the last rank
    alone = on_ranks(0, images)
    for found in on_two_ranks(on_ranks, images, folder=tmp_path):
        assert found == alone


def test_a_dict_has_all_figures():
    found = diagnose(hand_model(), loader(LABELS))
    content = found.to_dict()
    assert content['naming'] == 'logits' and content['images'] == 1
    assert content['ways']['oracle']['class_iou']['d'] is None
    assert content['ways']['present']['mIoU'] == found.miou('present')
    assert content['losses'] == found.losses
    first = dict(label='c', prediction='a', share=1.0, pixels=5)
    assert content['ways']['logits']['confusions'][0] == first


def test_a_model_without_words_gets_those_of_the_data_set():
    model = lively_model()
    assert isinstance(diagnose(model, loader(LABELS, classes='abcd')), Diagnosis)
    assert model.vocabulary.names == tuple('abcd')


def scores_patches() -> PGSeg:
    model = tiny_model()
    model.decode_head = DenseCLIPHead(in_channels=20)
    return model


def without_groups() -> OpenVocabSegmentor:
    parts = {key: tiny_model_cfg()[key] for key in ('backbone', 'text_encoder', 'decode_head')}
    return OpenVocabSegmentor(**parts)


def deciding() -> PGSeg:
    model = hand_model()
    model.test_cfg['decision'] = dict(logit_scale=40.0)
    return model


@pytest.mark.parametrize(
    ('model', 'labels', 'error', 'message'),
    [
        (scores_patches, LABELS, PreflightError, 'DenseCLIPHead scores patches and names no'),
        (without_groups, LABELS, PreflightError, 'OpenVocabSegmentor with a PGSegHead makes no'),
        (deciding, LABELS, PreflightError, 'set model.test_cfg.decision=None'),
        (lambda: hand_model(3), LABELS, PreflightError, '3 classes and the data set 4'),
        (hand_model, LABELS + 2, LabelMapError, 'label map of 0.png has the label'),
        (hand_model, torch.full((4, 4), 255), LabelMapError, 'all pixels of the 1 images'),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(model, labels, error, message):
    with pytest.raises(error, match=message):
        diagnose(model(), loader(labels))


def test_an_unknown_rule_and_a_missing_label_map_are_refused():
    with pytest.raises(ValueError, match="naming must be one of .* got 'guess'"):
        diagnose(hand_model(), loader(LABELS), naming='guess')
    data = loader(LABELS)
    item = data.dataset[0]
    del item['data_samples'].gt_sem_seg
    with pytest.raises(LabelMapError, match='image 0.png has no label map'):
        diagnose(hand_model(), DataLoader(Unlabelled(item), collate_fn=pseudo_collate))
    with pytest.raises(LabelMapError, match='no images'):
        diagnose(hand_model(), DataLoader(Labelled([]), collate_fn=pseudo_collate))


class Unlabelled(Labelled):
    """One image without a label map."""

    def __init__(self, item: dict) -> None:
        super().__init__([LABELS])
        self.item = item

    def __getitem__(self, index: int) -> dict:
        return self.item
