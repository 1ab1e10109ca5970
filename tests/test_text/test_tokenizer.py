import pytest
import torch

from pgseg_mm.text import tokenize
from pgseg_mm.text.tokenizer import trim_padding
from tiny_open_clip import add_tiny_models, make_hf_files

START, END = 49406, 49407


def test_a_row_is_start_words_end_and_padding():
    tokens = tokenize('a photo of a cat.')

    assert tokens.shape == (1, 77)
    assert tokens.dtype == torch.int64
    assert tokens[0, :8].tolist() == [START, 320, 1125, 539, 320, 2368, 269, END]
    assert not tokens[0, 8:].any()


def test_several_texts_give_a_row_each():
    tokens = tokenize(['cat', 'a photo of a cat.'], context_length=16)

    assert tokens.shape == (2, 16)
    assert tokens[0, :3].tolist() == [START, 2368, END]


def test_case_and_spaces_do_not_matter():
    assert torch.equal(tokenize('  A  Cat '), tokenize('a cat'))


def test_a_caption_of_500_words_is_cut_and_keeps_its_end_token():
    tokens = tokenize(' '.join(['cat'] * 500))

    assert tokens.shape == (1, 77)
    assert tokens[0].tolist() == [START] + [2368] * 75 + [END]


def test_a_context_of_any_length_is_filled():
    assert tokenize(' '.join(['cat'] * 500), 100)[0].tolist() == [START] + [2368] * 98 + [END]


def test_an_empty_text_is_start_and_end():
    assert tokenize('')[0, :3].tolist() == [START, END, 0]


def test_something_other_than_text_is_refused():
    with pytest.raises(TypeError, match='Text 1 is 7 of type int'):
        tokenize(['cat', 7])


def test_a_context_without_room_is_refused():
    with pytest.raises(ValueError, match='context_length is 1; expected at least 2'):
        tokenize('cat', context_length=1)


@pytest.mark.parametrize('model', ['ViT-B-32', 'ViT-B/32', 'RN50-quickgelu'])
def test_clips_own_tokenizer_by_the_name_of_a_model(model):
    assert torch.equal(tokenize(['a cat', 'dogs'], model=model), tokenize(['a cat', 'dogs']))


def test_the_model_sets_the_length_unless_it_is_given():
    assert tokenize('a cat', model='coca_ViT-B-32').shape == (1, 76)
    assert tokenize('a cat', 16, 'coca_ViT-B-32').shape == (1, 16)


def test_tokenizer_of_a_model_from_hugging_face(tmp_path):
    add_tiny_models(tmp_path, **{'tiny-hf-tokens': make_hf_files(tmp_path)})
    tokens = tokenize(['a red dog', 'horse'], model='tiny-hf-tokens')
    assert tokens.shape == (2, 12)
    assert tokens[:, :6].tolist() == [[0, 4, 7, 5, 2, 1], [0, 3, 2, 1, 1, 1]]
    assert tokenize('a red dog of a car', 4, 'tiny-hf-tokens').tolist() == [[0, 4, 7, 2]]


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="no model 'ViT-B-23'; did you mean ViT-B-32"):
        tokenize('cat', model='ViT-B-23')


def test_a_tokenizer_that_cannot_be_downloaded_says_so(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(RuntimeError, match='The tokenizer of ViT-B-16-SigLIP could not be loaded'):
        tokenize('cat', model='ViT-B-16-SigLIP')


@pytest.mark.parametrize(
    ('texts', 'length'), [(['a dog'], 8), (['a ' * 7, 'b'], 16), (['a ' * 99], 77)]
)
def test_padding_behind_the_longest_text_is_cut_to_a_multiple_of_8(texts, length):
    tokens = tokenize(texts)
    trimmed = trim_padding(tokens)
    assert trimmed.shape == (len(texts), length)
    assert torch.equal(trimmed, tokens[:, :length])
    assert not tokens[:, length:].any()
