import pickle

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS

from pgseg_mm.datasets import NamePrompts

NAMES = ['dog', 'hot dog', 'brick wall', 'C++', 'Straße', 'café', 'घर', 'stanbul']


@pytest.mark.parametrize(
    ('caption', 'found'),
    [
        ('a hot dog and a dog by a brick wall', ['hot dog', 'dog', 'brick wall']),
        ('two dogs, a doghouse and a brick-wall', []),
        ('Dog eats DOG', ['dog']),
        ('a dog.', ['dog']),
        ("a dog's nose", ['dog']),
        ('a  hot\ndog', ['hot dog']),
        ('c++, no c', ['C++']),
        ('STRASSE, Cafe\u0301', ['Straße', 'café']),
        ('घर', ['घर']),
        ('घरों, \u0130stanbul', []),
        ('', []),
    ],
)
def test_finds_whole_names_the_longest_first(caption, found):
    assert NamePrompts(NAMES).find(caption) == found


def test_each_name_comes_once_before_any_comes_again():
    prompts = NamePrompts(NAMES, num_prompts=4, templates=['a {}.'])
    made = prompts({'caption': 'a dog by the brick wall'})['prompts']
    assert sorted(made) == ['a brick wall.', 'a brick wall.', 'a dog.', 'a dog.']
    assert prompts({'caption': 'nothing'})['prompts'] == ['nothing'] * 4


def test_names_of_a_file_with_synonyms_and_of_the_package(tmp_path):
    file = tmp_path / 'classes.txt'
    file.write_text('dog, puppy\nbrick wall\n')
    assert NamePrompts(str(file)).find('a puppy and a dog') == ['puppy', 'dog']
    assert NamePrompts('coco_object').find('a fire hydrant by a truck') == ['fire hydrant', 'truck']


def test_a_background_is_no_name():
    for names in ('coco_object_synonyms', ['background', 'dog']):
        assert NamePrompts(names).find('a dog on a white background') == ['dog']
    with pytest.raises(ValueError, match='NamePrompts needs names, but there is a background only'):
        NamePrompts(['background'])


def test_of_an_endless_caption_the_beginning_is_read(monkeypatch):
    monkeypatch.setattr('pgseg_mm.limits.MAX_NOUN_LETTERS', 9)
    assert NamePrompts(NAMES).find('a hot dog and a brick wall') == ['hot dog']


def test_a_copy_in_a_worker_draws_the_same():
    transform = TRANSFORMS.build({'type': 'NamePrompts', 'names': NAMES})
    drawn = []
    for one in (transform, pickle.loads(pickle.dumps(transform))):
        np.random.seed(0)
        drawn.append(one({'caption': 'a dog, a hot dog'})['prompts'])
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'names': []}, 'no class'),
        ({'names': NAMES, 'num_prompts': 0}, 'num_prompts must be at least 1'),
        ({'names': NAMES, 'templates': 'openai81'}, 'openai81'),
        ({'names': ['dog', 'Dog']}, "'Dog' stands in class 0 and in class 1"),
    ],
)
def test_refuses_what_makes_no_prompts(settings, message):
    with pytest.raises(ValueError, match=message):
        NamePrompts(**settings)


def test_refuses_what_has_no_caption():
    with pytest.raises(KeyError, match="NamePrompts needs 'caption'"):
        NamePrompts(NAMES)({'img_path': 'cat.png'})


def test_names_of_data_that_are_not_there_yet():
    with pytest.raises(FileNotFoundError, match='NamePrompts cannot read its names, data/x.txt'):
        NamePrompts('data/x.txt')
