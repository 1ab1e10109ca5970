"""What tests of models share."""

from collections.abc import Iterator

import pytest
from mmengine.logging import MessageHub

from pgseg_mm.models.layers.dist import STEP_SEED


@pytest.fixture
def fixed_step_seed() -> Iterator[MessageHub]:
    """A seed for the training step, in the hub that is returned."""
    hub = MessageHub.get_current_instance()  # which other tests may have left
    hub.update_info(STEP_SEED, 3, resumed=False)
    yield hub
    hub.runtime_info.pop(STEP_SEED, None)
