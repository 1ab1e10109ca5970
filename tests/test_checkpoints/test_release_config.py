"""Configs of the releases, in parity files and in checkpoints."""

import pytest

from pgseg_mm.checkpoints import PUBLISHED
from pgseg_mm.checkpoints.release_config import (
    architecture_of_release_config,
    heads_of_release_config,
    plain_config,
)
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.placeholders import ForeignObject


def foreign(name, state):
    made = ForeignObject(name, ())
    made.state = state
    return made


def node(value):
    return foreign('omegaconf.nodes.AnyNode', {'_metadata': None, '_val': value})


def container(content):
    made = foreign('omegaconf.dictconfig.DictConfig', {'_parent': None, '_content': content})
    made.state['_parent'] = made  # parents and children know each other
    return made


def test_an_omegaconf_object_that_was_not_loaded_can_be_read():
    encoder = container({'num_heads': container([node(6), node(6), node(3)]), 'depth': node('x')})
    config = container({'model': container({'img_encoder': encoder})})
    plain = {'model': {'img_encoder': {'num_heads': [6, 6, 3], 'depth': 'x'}}}
    assert plain_config(config) == plain
    assert heads_of_release_config(config) == (6, 6, 3)
    assert heads_of_release_config(plain['model']) == (6, 6, 3)


@pytest.mark.parametrize(
    'config', [None, 3, {}, {'model': 'x'}, {'img_encoder': {'num_heads': ['six', 6]}}]
)
def test_a_config_without_heads_tells_none(config):
    assert heads_of_release_config(config) is None


def test_a_config_that_contains_itself_is_refused():
    config = container({})
    config.state['_content']['model'] = config
    with pytest.raises(CheckpointError, match='contains itself'):
        heads_of_release_config(config)


def test_an_empty_config_is_the_published_model():
    assert architecture_of_release_config({}) == PUBLISHED


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        ({'embed_factors': [1, 2]}, 'not one for each of 3 stages'),
        ({'embed_factors': [2, 2, 2]}, 'the first of embed_factors must be 1'),
        ({'hard_assignment': False}, 'hard_assignment = False: this project has True'),
        ({'depths': 3}, 'describes no model'),
    ],
)
def test_what_this_project_has_not_is_refused(image, message):
    with pytest.raises(CheckpointError, match=message):
        architecture_of_release_config({'img_encoder': image})
