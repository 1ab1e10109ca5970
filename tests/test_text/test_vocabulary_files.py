"""Vocabulary files as people have them."""

import json

import pytest

from pgseg_mm.text import Vocabulary
from pgseg_mm.text.vocabulary import SHIPPED
from pgseg_mm.text.words import with_background

EXPECTED = (('background',), ('St. Bernard', 'dog'), ('red car',))


@pytest.fixture
def read(tmp_path):
    def read_file(content, name='words.txt'):
        path = tmp_path / name
        path.write_text(content, encoding='utf-8')
        return Vocabulary.from_file(path)

    return read_file


@pytest.mark.parametrize(
    'text',
    [
        'background\nSt. Bernard, dog\nred car\n',
        'background \nSt. Bernard\tdog\n red\u00a0 car',
        'background\nSt. Bernard; dog\nred car',
        '"background"\n"St. Bernard", "dog"\n"red car"',
        "'background'\n'St. Bernard', 'dog'\n'red car'",
        '0 background\n1 St. Bernard, dog\n2 red car',
        '1\tbackground\n2\tSt. Bernard\tdog\n3\tred car',
        '0: background\n1: St. Bernard, dog\n2: red car',
        '1. background\n2. St. Bernard, dog\n3. red car',
        '# id, name\n0,background\n1,St. Bernard,dog\n2,red car',
        json.dumps(['background', ['St. Bernard', 'dog'], 'red car']),
        json.dumps(['background', 'St. Bernard, dog', 'red car'], indent=1),
        json.dumps({'1': 'St. Bernard, dog', '0': 'background', '2': 'red car'}),
    ],
)
def test_the_same_words_are_read_from_all_spellings(read, text):
    assert read(text).words == EXPECTED


def test_words_keep_what_belongs_to_them(read):
    words = ['19" monitor', "dog's bed", '3 musketeers', '101 dalmatians', 'café']

    assert read('\n'.join(words)).names == tuple(words)
    assert read('3 musketeers\n7 dwarfs').names == ('3 musketeers', '7 dwarfs')
    assert read('0\n1\n2').names == ('0', '1', '2')
    assert read('"door, double"\nbed').names == ('door, double', 'bed')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('dog\n"cat\nbird', 'The quotes in line 2 of .*words.txt do not match'),
        ('dog\nc\x1bat\nbird', 'The word c.x1bat in line 2 of .* cannot be printed'),
        ('0: dog\n2: cat', 'The number 2 in line 2 of .* is not the next label'),
        ('5\tdog\n6\tcat', 'The number 5 in line 1 of .* is not the next label'),
        ('Idx\tName\n1\twall', 'The field 1 in line 2 of .* is a number'),
        ("'hot dog, sausage'\ncat", 'Single quotes in line 1 of .* enclose a comma'),
        ('- dog\n- cat', 'A bullet begins line 1 of .*: - dog'),
        ('dog\n* cat', 'A bullet begins line 2'),
        ('["dog", 3]', 'The entry 1 of .* is 3 of type int'),
        ('["dog",\n "cat"', 'Line 2 of .* is invalid JSON'),
        ('{"dog": 1}', 'holds JSON of type dict with 1 keys'),
        ('[' * 10**5, 'nested too deeply'),
        ('[[]]', 'No word in entry 0'),
        ('["\\ud800"]', 'entry 0 of .* cannot be printed'),
        ('dog, ' + 'x' * 9999 + ', dog', 'stands twice in line 1'),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(read, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(text)
    assert len(str(error.value)) < 600


def test_files_of_sclip_are_read_unchanged(read):
    """Its background names things of which some are classes, too; names and order are kept."""
    text = 'sky, wall, bed, building\nperson, person in shirt\nbed\nwood '
    vocabulary = read(text, 'cls_coco_object.txt')

    assert vocabulary.words[0] == ('sky', 'wall', 'bed', 'building')
    assert vocabulary.names == ('sky', 'person', 'bed', 'wood')
    assert vocabulary.repeats
    assert Vocabulary.from_list(vocabulary.to_list()) == vocabulary
    assert with_background(vocabulary, True).names == ('background', *vocabulary.names)
    assert not read('dog\ncat, kitten', 'cls_pets.txt').repeats
    with pytest.raises(ValueError, match="'bed' stands in line 1 of .* and in line 3"):
        read(text, 'other.txt')


def test_a_list_of_the_package_is_the_same_by_any_path(monkeypatch):
    whole = SHIPPED / 'sclip' / 'coco_object.txt'
    monkeypatch.chdir(SHIPPED.parent)
    near = Vocabulary.from_file('vocabularies/sclip/coco_object.txt')
    assert near == Vocabulary.from_file(whole) == Vocabulary.from_file('sclip/coco_object')


def test_a_file_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('pgseg_mm.limits.MAX_VOCABULARY_BYTES', 10)
    (tmp_path / 'words.txt').write_text('x' * 11)
    with pytest.raises(ValueError, match='words.txt has 11 bytes, more than 10'):
        Vocabulary.from_file(tmp_path / 'words.txt')


def test_what_is_in_quotes_is_kept(read):
    assert read('"a;b", "c\td"; e\tf\ndogs\'').words == (('a;b', 'c d', 'e', 'f'), ("dogs'",))


def test_labels_begin_at_0_or_1(read):
    with pytest.raises(ValueError, match='The number 2 in line 1 of .* is not the next label'):
        read('2: dog\n3: cat')
