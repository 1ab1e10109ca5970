import numpy as np
import pytest

from pgseg_mm.apis import parse_words
from pgseg_mm.background import has_background, is_background
from pgseg_mm.text import Vocabulary
from pgseg_mm.text.words import (
    load_vocabulary,
    make_vocabulary,
    resolve,
    vocabulary_of_meta,
    with_background,
)


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


def test_classes_or_a_vocabulary_or_what_is_known(tmp_path):
    known = Vocabulary.from_names(['thing', 'stuff'])
    path = tmp_path / 'words.txt'
    path.write_text('dog, puppy\nbackground\n')

    def unknown():
        raise AssertionError('is looked for though classes are given')

    assert resolve('dog . red car', known=unknown).names == ('dog', 'red car')
    assert resolve([('dog', 'puppy')], known=unknown).words == (('dog', 'puppy'),)
    for given in (path, str(path)):
        found = resolve(vocabulary=given, known=unknown)
        assert found.words == (('dog', 'puppy'), ('background',))  # in its order
    assert resolve(vocabulary='voc21').names[:2] == ('background', 'aeroplane')
    assert resolve(known=lambda: known) is known
    with pytest.raises(ValueError, match='either classes or a vocabulary, not both'):
        resolve(['dog'], path, lambda: known)
    with pytest.raises(ValueError, match='names classes: give some'):
        resolve()


def test_a_vocabulary_as_a_config_names_it():
    names = ['background', 'red, or brown, car']  # of labels: a comma divides nothing
    vocabulary = load_vocabulary(names)
    assert vocabulary.names == tuple(names)
    assert load_vocabulary(vocabulary) is vocabulary
    assert len(load_vocabulary('voc20')) == 20
    with pytest.raises(FileNotFoundError, match='Vocabulary file dog'):
        load_vocabulary('dog')


@pytest.mark.parametrize(
    ('meta', 'words'),
    [
        (dict(vocabulary=[['dog', 'puppy'], ['sky']], classes=['a', 'b']),
         [['dog', 'puppy'], ['sky']]),
        (dict(vocabulary=[], classes=('dog', 'sky')), [['dog'], ['sky']]),
        (dict(classes=('dog',)), [['dog']]),
    ],
)  # fmt: skip
def test_a_vocabulary_of_meta_information(meta, words):
    assert vocabulary_of_meta(meta).to_list() == words


@pytest.mark.parametrize('meta', [None, {}, dict(classes=()), dict(palette=[[0] * 3])])
def test_meta_information_without_words(meta):
    assert vocabulary_of_meta(meta) is None


def test_what_is_called_background():
    assert is_background('background') and is_background('Background')
    assert not is_background('backgrounds')
    assert has_background(['BACKGROUND', 'dog']) and not has_background(['dog', 'background'])
    assert not has_background([])


def test_a_background_keeps_its_words_if_that_is_asked_for():
    vocabulary = make_vocabulary([('dog', 'puppy'), ('background', 'sky', 'wall')])
    for background in (None, True):
        kept = with_background(vocabulary, background, keep_words=True)
        assert kept.words == (('background', 'sky', 'wall'), ('dog', 'puppy'))
        assert with_background(vocabulary, background).words[0] == ('background',)
    assert with_background(vocabulary, False, keep_words=True).words == (('dog', 'puppy'),)
    added = with_background(make_vocabulary(['dog']), True, keep_words=True)
    assert added.words == (('background',), ('dog',))


@pytest.mark.parametrize(
    'meta, words',
    [
        ({'classes': np.array(['dog', 'cat'])}, [['dog'], ['cat']]),
        ({'vocabulary': np.array([['dog', 'puppy']])}, [['dog', 'puppy']]),
    ],
)
def test_meta_information_as_arrays(meta, words):
    assert vocabulary_of_meta(meta).to_list() == words


@pytest.mark.parametrize(
    'meta, message',
    [
        ({'vocabulary': 5}, 'The vocabulary of the data set are 5 of type int'),
        ({'vocabulary': ['dog', 'cat']}, "words of class 0 must be a list, got the string 'dog'"),
        ({'classes': 'dog'}, "are 'dog' of type str; expected a list"),
        ({'vocabulary': [[3]]}, 'A word of class 0 is 3 of type int'),
    ],
)
def test_meta_information_that_names_no_words(meta, message):
    with pytest.raises(ValueError, match=message):
        vocabulary_of_meta(meta)


def test_a_line_end_among_many_blanks_separates_words():
    assert parse_words('dog' + ' ' * 30 + '\n' + ' ' * 30 + 'cat') == ['dog', 'cat']
