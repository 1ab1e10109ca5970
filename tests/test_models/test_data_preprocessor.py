import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from pgseg_mm.models.data_preprocessor import PGSegDataPreProcessor
from pgseg_mm.text import tokenize

MEAN, STD = [100.0, 110.0, 120.0], [10.0, 20.0, 40.0]


@pytest.fixture
def preprocessor():
    return MODELS.build(dict(type='PGSegDataPreProcessor', mean=MEAN, std=STD))


def sample(height=4, width=6, caption='a cat'):
    """One packed pair: a BGR image of one colour and its tokens."""
    image = torch.tensor([160, 130, 90], dtype=torch.uint8).view(3, 1, 1)
    return dict(
        inputs=image.expand(3, height, width).contiguous(),
        tokens=tokenize(caption)[0],
        data_samples=SegDataSample(metainfo=dict(caption=caption)),
    )


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_a_training_batch_is_normalised_rgb_with_stacked_tokens(preprocessor, collate):
    batch = preprocessor(collate([sample(), sample(caption='two dogs on a sofa')]), training=True)

    assert batch['inputs'].shape == (2, 3, 4, 6)
    assert batch['inputs'].dtype == torch.float32
    assert batch['inputs'][1, :, 3, 5].tolist() == [-1.0, 1.0, 1.0]
    assert batch['tokens'].shape == (2, 8)
    assert [each.caption for each in batch['data_samples']] == ['a cat', 'two dogs on a sofa']


def test_bgr_order_is_kept_on_request():
    preprocessor = PGSegDataPreProcessor(MEAN, STD, bgr_to_rgb=False)

    batch = preprocessor(pseudo_collate([sample()]))

    assert batch['inputs'][0, :, 0, 0].tolist() == [6.0, 1.0, -0.75]


def test_float_images_are_not_changed_in_place(preprocessor):
    image = torch.full((3, 4, 6), 100.0)

    preprocessor(dict(inputs=[image]))

    assert (image == 100.0).all()


@pytest.mark.parametrize(
    ('words', 'length'),
    [(6, 8), (7, 16), (500, 77)],  # start and end token come on top
)
def test_padding_behind_the_longest_caption_is_cut_in_steps_of_8(preprocessor, words, length):
    captions = ['cat ' * words, 'cat']
    batch = preprocessor(pseudo_collate([sample(caption=caption) for caption in captions]))

    assert torch.equal(batch['tokens'], tokenize(captions)[:, :length])
    assert batch['tokens'].max(dim=1).values.tolist() == [49407, 49407]


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_prompts_are_kept_and_the_longest_of_all_texts_counts(preprocessor, collate):
    texts = [['a cat', 'a photo of a cat on my very large bed .'], ['two dogs', 'a dog']]
    samples = [dict(sample(), tokens=tokenize(rows)) for rows in texts]

    batch = preprocessor(collate(samples), training=True)

    assert batch['tokens'].shape == (2, 2, 16)
    assert torch.equal(batch['tokens'][0], tokenize(texts[0])[:, :16])
    assert (batch['tokens'] == 49407).sum() == 4


def test_prompts_are_cut_apart_on_request(preprocessor):
    texts = [['a cat with seven legs on a bed', 'a cat', 'a bed'], ['two dogs', 'a dog', 'dogs']]
    batch = pseudo_collate([dict(sample(), tokens=tokenize(rows)) for rows in texts])
    apart = PGSegDataPreProcessor(MEAN, STD, prompts_apart=True)
    tokens = torch.stack([tokenize(rows) for rows in texts])
    found = apart(batch, training=True)
    assert torch.equal(found['tokens'], tokens[:, 0, :16])
    assert torch.equal(found['prompts'], tokens[:, 1:, :8])
    assert 'prompts' not in preprocessor(batch)
    assert 'prompts' not in apart(pseudo_collate([sample()]))


def test_nothing_but_zeros_is_cut(preprocessor):
    """Tokenizers beside CLIP's pad with other ids, and their end token is not the largest."""
    tokens = torch.zeros(2, 20, dtype=torch.long)
    tokens[0, :3] = torch.tensor([250, 31, 2])
    tokens[1, :12] = 1
    images = [sample()['inputs']] * 2
    assert torch.equal(preprocessor(dict(inputs=images, tokens=tokens))['tokens'], tokens[:, :16])
    tokens[1] = 1
    assert torch.equal(preprocessor(dict(inputs=images, tokens=tokens))['tokens'], tokens)


def test_texts_of_nothing_keep_a_few_columns(preprocessor):
    tokens = torch.zeros(1, 20, dtype=torch.long)
    assert preprocessor(dict(inputs=[sample()['inputs']], tokens=tokens))['tokens'].shape == (1, 8)


def test_text_is_left_whole_on_request():
    preprocessor = PGSegDataPreProcessor(MEAN, STD, trim_text=False)

    assert preprocessor(pseudo_collate([sample()]))['tokens'].shape == (1, 77)


def test_images_of_several_sizes_stay_a_list_in_evaluation(preprocessor):
    batch = preprocessor(dict(inputs=[sample()['inputs'], sample(5, 7)['inputs']]))

    assert [tuple(image.shape) for image in batch['inputs']] == [(3, 4, 6), (3, 5, 7)]
    assert batch['inputs'][1][:, 0, 0].tolist() == [-1.0, 1.0, 1.0]
    assert batch['data_samples'] is None
    assert 'tokens' not in batch


def test_images_of_several_sizes_are_refused_in_training(preprocessor):
    with pytest.raises(ValueError, match=r'different sizes .*\(4, 6\), \(5, 7\).*Crop'):
        preprocessor(pseudo_collate([sample(), sample(5, 7)]), training=True)


def test_an_image_that_is_not_in_colour_is_refused(preprocessor):
    images = [sample()['inputs'], torch.zeros(1, 4, 6)]

    with pytest.raises(ValueError, match=r'Image 1 .* shape \(1, 4, 6\); expected \(3, H, W\)'):
        preprocessor(dict(inputs=images))
    with pytest.raises(ValueError, match=r'shape \(4, 4, 6\); expected \(3, H, W\)'):
        preprocessor(dict(inputs=torch.zeros(2, 4, 4, 6)))


def test_a_batch_without_images_is_refused(preprocessor):
    with pytest.raises(KeyError, match="no 'inputs'"):
        preprocessor(dict(tokens=[]))
    with pytest.raises(ValueError, match='holds no image'):
        preprocessor(dict(inputs=[]))


def test_mean_and_std_need_three_positive_values():
    with pytest.raises(ValueError, match='three values each.* got 1 and 3'):
        PGSegDataPreProcessor([100.0], STD)
    with pytest.raises(ValueError, match='std must be positive'):
        PGSegDataPreProcessor(MEAN, [1.0, 0.0, 1.0])


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_images_that_are_not_finite_are_refused(preprocessor, value, training):
    images = torch.rand(2, 3, 4, 6)
    images[1, 0, 3, 5] = value

    with pytest.raises(ValueError, match='infinite values in image 1 of the batch'):
        preprocessor(dict(inputs=images), training=training)
    samples = [SegDataSample(metainfo=dict(img_path=path)) for path in ('a.jpg', 'b.jpg')]
    with pytest.raises(ValueError, match=r'in image 1 \(b\.jpg\) of the batch'):
        preprocessor(dict(inputs=list(images), data_samples=samples), training=training)


def test_values_are_read_on_the_host_only(preprocessor):
    """No device is waited for; tensors of the meta device have no values to be read."""
    preprocessor.to('meta')

    assert preprocessor(dict(inputs=torch.rand(2, 3, 4, 6, device='meta')))['inputs'].is_meta
    assert preprocessor(dict(inputs=torch.rand(2, 3, 4, 6)))['inputs'].is_meta


@pytest.mark.gpu
def test_a_batch_is_moved_to_the_models_device(preprocessor):
    batch = preprocessor.cuda()(pseudo_collate([sample(), sample()]), training=True)

    assert batch['inputs'].is_cuda
    assert batch['tokens'].is_cuda


def test_samples_without_labels_are_not_copied_in_training(preprocessor):
    """Of a thousand pairs that took longer than a copy of their pixels."""
    batch = pseudo_collate([sample(), sample()])
    moved = preprocessor(batch, training=True)['data_samples']
    assert all(one is other for one, other in zip(moved, batch['data_samples'], strict=True))


def test_labels_are_moved_in_training(preprocessor):
    batch = pseudo_collate([sample(), sample()])
    labels = torch.zeros(1, 4, 6, dtype=torch.long)
    batch['data_samples'][1].gt_sem_seg = PixelData(data=labels)
    preprocessor.to('meta')
    moved = preprocessor(batch, training=True)['data_samples']
    assert moved[1].gt_sem_seg.data.is_meta and moved[1].caption == 'a cat'
