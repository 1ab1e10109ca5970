import json
import pickle

import pytest

from pgseg_mm.text import Vocabulary


@pytest.fixture
def write(tmp_path):
    def write_file(text, encoding='utf-8'):
        path = tmp_path / 'classes.txt'
        path.write_text(text, encoding=encoding)
        return path

    return write_file


def test_a_file_has_one_class_a_line_with_synonyms_behind_commas(write):
    vocabulary = Vocabulary.from_file(
        write('# animals\nbackground\ndog, puppy\n# no blank lines\ncafé\n')
    )

    assert len(vocabulary) == 3
    assert vocabulary.names == ('background', 'dog', 'café')
    assert vocabulary.words == (('background',), ('dog', 'puppy'), ('café',))
    assert vocabulary.flat_words == ('background', 'dog', 'puppy', 'café')
    assert vocabulary.class_index == (0, 1, 1, 2)


def test_a_byte_order_mark_and_trailing_newlines_do_no_harm(write):
    vocabulary = Vocabulary.from_file(write('background\r\ndog\r\n\r\n', encoding='utf-8-sig'))

    assert vocabulary.names == ('background', 'dog')


def test_names_are_taken_as_they_are():
    vocabulary = Vocabulary.from_names([' door, double ', 'bed # 1'])

    assert vocabulary.names == ('door, double', 'bed # 1')


@pytest.mark.parametrize(
    ('names', 'expected'),
    [(['Background', 'dog'], True), (['dog', 'background'], False)],
)
def test_background_is_class_0_or_none(names, expected):
    assert Vocabulary.from_names(names).has_background is expected


def test_plain_data_survives_json_and_the_object_pickles():
    vocabulary = Vocabulary((('background',), ('dog', 'puppy')))

    assert Vocabulary.from_list(json.loads(json.dumps(vocabulary.to_list()))) == vocabulary
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary
    assert hash(vocabulary) == hash(Vocabulary.from_list(vocabulary.to_list()))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.txt does not exist'):
        Vocabulary.from_file(tmp_path / 'nothing.txt')


@pytest.mark.parametrize('text', ['', '\n\n', '# only a comment\n'])
def test_a_file_without_classes_is_refused(write, text):
    with pytest.raises(ValueError, match='vocabulary is empty'):
        Vocabulary.from_file(write(text))


def test_a_blank_line_between_classes_is_refused_because_it_shifts_labels(write):
    with pytest.raises(ValueError, match='Blank line 2 of .*shift the labels'):
        Vocabulary.from_file(write('background\n\ndog\n'))


def test_an_empty_synonym_is_named_by_its_line(write):
    with pytest.raises(ValueError, match='Empty name in line 2'):
        Vocabulary.from_file(write('background\ndog,,puppy\n'))


def test_a_word_of_two_classes_is_named_with_both_lines(write):
    with pytest.raises(ValueError, match="'Dog' stands in line 1 of .* and in line 3"):
        Vocabulary.from_file(write('wolf, dog\ncat\nDog\n'))


def test_a_word_that_stands_twice_in_one_class_is_refused():
    with pytest.raises(ValueError, match='stands twice in class 0: dog, dog'):
        Vocabulary((('dog', 'dog'),))


def test_a_file_in_another_encoding_is_refused(write):
    with pytest.raises(ValueError, match='not UTF-8'):
        Vocabulary.from_file(write('café\n', encoding='latin-1'))


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ([], 'vocabulary is empty'),
        (['dog', ' '], 'Empty name in class 1'),
        (['dog', 'cat', 'dog'], "'dog' stands in class 0 and in class 2"),
        (['dog', 3], 'A word of class 1 is 3 of type int'),
        ('dog', 'must be a list'),
    ],
)
def test_wrong_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_names(names)


def test_a_class_without_words_is_refused():
    with pytest.raises(ValueError, match='No word in class 1'):
        Vocabulary((('dog',), ()))


def test_as_many_classes_as_labels_match_whatever_their_names():
    Vocabulary.from_names(['puppy', 'kitten']).check_matches(('dog', 'cat'))


def test_another_number_of_classes_is_shown_with_the_first_differences():
    vocabulary = Vocabulary.from_names(['background', 'cat', 'dog'])

    with pytest.raises(ValueError, match='has 3 classes and the data set 2') as error:
        vocabulary.check_matches(('cat', 'dog'))
    assert "label 0: 'background' here, 'cat' in the data set" in str(error.value)
    assert "label 2: 'dog' here, None in the data set" in str(error.value)


def test_classes_may_share_a_word_where_that_is_asked_for():
    vocabulary = Vocabulary((('crane',), ('dog',), ('crane',)), repeats=True)

    assert vocabulary.class_index == (0, 1, 2)
    assert vocabulary != Vocabulary((('crane',), ('dog',), ('construction crane',)))
    with pytest.raises(ValueError, match='stands twice'):
        Vocabulary((('crane', 'Crane'),), repeats=True)


def test_names_of_the_package_are_listed_where_one_is_unknown():
    with pytest.raises(FileNotFoundError, match='ade20k.*imagenet1k.*voc21'):
        Vocabulary.from_file('no-such-words')


def test_words_without_the_background_are_numbered_from_0():
    vocabulary = Vocabulary((('background', 'wall'), ('dog', 'puppy'), ('cat',)))
    assert vocabulary.labelled_words(True) == (('dog', 'puppy', 'cat'), (0, 0, 1))
    assert vocabulary.labelled_words(False)[1] == (0, 0, 1, 1, 2)
