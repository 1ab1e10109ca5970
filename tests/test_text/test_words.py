import pytest

from pgseg_mm.apis import parse_words
from pgseg_mm.text import Vocabulary
from pgseg_mm.text.words import make_vocabulary, with_background


@pytest.mark.parametrize(
    'text',
    [
        'dog . red car . grass',
        'dog . red car . grass .',
        'dog, red car, grass',
        'dog,red car,grass,',
        'dog. red car. grass.',
        ' dog ; red car\ngrass\n',
    ],
)
def test_words_are_separated_as_people_write_them(text):
    assert parse_words(text) == ['dog', 'red car', 'grass']


def test_a_dot_within_a_word_stays():
    assert parse_words('3.5 mm jack, dog') == ['3.5 mm jack', 'dog']


@pytest.mark.parametrize('text', ['', '  ', ',', ' . '])
def test_no_words(text):
    with pytest.raises(ValueError, match='no word to look for'):
        parse_words(text)


@pytest.mark.parametrize('text', ['dog,,cat', ', dog', 'dog . . cat'])
def test_nothing_between_separators(text):
    with pytest.raises(ValueError, match='no word between two separators'):
        parse_words(text)


def test_classes_of_a_list_may_have_synonyms():
    vocabulary = make_vocabulary([('dog', 'puppy'), 'red car'])
    assert vocabulary.words == (('dog', 'puppy'), ('red car',))
    assert make_vocabulary(vocabulary) is vocabulary
    assert make_vocabulary('dog . red car').names == ('dog', 'red car')


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (['dog, cat', 'sky'], r"'dog, cat': write 'dog', 'cat' for classes .* \('dog', 'cat'\)"),
        (['dog', 'Dog'], 'a word may name only one class'),
        ('dog . cat . dog', "'dog' stands in class 0 and in class 2"),
        (['dog', ' '], 'Empty name in class 1'),
        ([], 'names no class'),
    ],
)
def test_faulty_classes(classes, message):
    with pytest.raises(ValueError, match=message):
        make_vocabulary(classes)


@pytest.mark.parametrize(
    ('background', 'names'),
    [
        (None, ('background', 'dog', 'sky')),
        (True, ('background', 'dog', 'sky')),
        (False, ('dog', 'sky')),
    ],
)
def test_a_background_comes_first_or_goes(background, names):
    vocabulary = make_vocabulary(['dog', 'Background', 'sky'])
    assert with_background(vocabulary, background).names == names


def test_a_background_is_added():
    vocabulary = Vocabulary.from_names(['dog', 'sky'])
    assert with_background(vocabulary, True).names == ('background', 'dog', 'sky')
    assert with_background(vocabulary, None) == vocabulary
    with pytest.raises(ValueError, match='nothing but the background'):
        with_background(Vocabulary.from_names(['background']), None)
