from collections import OrderedDict
from itertools import count

import nltk
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmseg.utils import register_all_modules

from noun_tagger import save_tiny_tagger
from pgseg_mm.datasets.transforms import noun_prompts
from plain_configs import unformatted

NUMBERS = count()


def pytest_addoption(parser):
    parser.addoption(
        '--kill-runs',
        type=int,
        default=0,
        metavar='N',
        help='kill each kind of training run N times, which takes an hour; by default two kinds '
        'are killed once',
    )
    parser.addoption(
        '--fresh-install',
        action='store_true',
        help='install the package and all that it needs into an environment of its own and train '
        'there, which takes some minutes',
    )


LONGEST = (
    'test_wheel',
    'test_on_emoji_scenes',
    'test_text_free',
    'test_fuzz',
    'test_dist_train',
    'test_stopping',
    'test_readme',
    'test_preflight',
    'test_compile_hook',
    'test_test',
    'test_web',
    'test_training_step',
    'test_memory',
    'test_web_demo',
)
"""Files that take long by a case or two; in parallel runs the last files should be short ones."""


def pytest_configure(config):
    if hasattr(config.option, 'loadscopereorder'):  # of xdist, which puts many cases before long
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(reason='needs a GPU'))


@pytest.fixture(autouse=True)
def _mmseg_scope():
    """Build from mmseg's registries, as its tools do."""
    register_all_modules(init_default_scope=True)


@pytest.fixture(autouse=True)
def _no_earlier_runs(request, monkeypatch):
    """A hub without the steps of the runs of other tests, which schedules of losses would read, and
    no loggers of them, whose streams may be closed."""
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())
    MessageHub.get_instance(f'{request.node.nodeid} {next(NUMBERS)}')


@pytest.fixture(autouse=True, scope='session')
def _unformatted_configs():
    with unformatted():
        yield


@pytest.fixture(autouse=True, scope='session')
def _class_embed_cache(tmp_path_factory):
    """Keep class embeddings out of the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PGSEG_CACHE', str(tmp_path_factory.mktemp('class_embed_cache')))
        yield


@pytest.fixture(scope='session')
def _tagger_data(tmp_path_factory):
    data = tmp_path_factory.mktemp('nltk_data')
    save_tiny_tagger(data)
    return data


@pytest.fixture
def no_tagger(monkeypatch):
    """A machine without any data of nltk."""
    monkeypatch.setattr(nltk.data, 'path', [])
    noun_prompts.noun_finder.cache_clear()
    yield
    noun_prompts.noun_finder.cache_clear()


@pytest.fixture
def tiny_tagger(no_tagger, monkeypatch, _tagger_data):
    """A machine whose nltk data is the tagger of ``noun_tagger``."""
    monkeypatch.setattr(nltk.data, 'path', [str(_tagger_data)])


@pytest.fixture
def log(caplog):
    """What mmengine's logger says."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
