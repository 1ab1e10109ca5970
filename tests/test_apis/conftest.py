import logging

import pytest
import torch
from mmengine.logging import MMLogger

from inferencer_zoo import config
from model_zoo import lively_model
from pgseg_mm.apis import PGSegInferencer


@pytest.fixture(scope='module')
def inferencer():
    model = lively_model()
    model.cfg = config()
    return PGSegInferencer(model)


@pytest.fixture
def checkpoint(tmp_path):
    meta = dict(dataset_meta=dict(classes=('thing', 'stuff'), palette=[[0] * 3] * 2))
    path = tmp_path / 'tiny.pth'
    torch.save(dict(state_dict=lively_model().state_dict(), meta=meta), path)
    return path


@pytest.fixture
def log():
    """Warnings in the log, which mmengine does not hand on to pytest."""
    messages = []

    class Handler(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logger, handler = MMLogger.get_current_instance(), Handler(logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
