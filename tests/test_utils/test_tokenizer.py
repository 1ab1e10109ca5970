import pytest
import torch

from pgseg_mm.utils import tokenize

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


def test_an_empty_text_is_start_and_end():
    assert tokenize('')[0, :3].tolist() == [START, END, 0]


def test_something_other_than_text_is_refused():
    with pytest.raises(TypeError, match='Text 1 is 7 of type int'):
        tokenize(['cat', 7])


def test_a_context_without_room_is_refused():
    with pytest.raises(ValueError, match='context_length is 1; expected at least 2'):
        tokenize('cat', context_length=1)
