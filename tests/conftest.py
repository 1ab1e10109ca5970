import pytest
from mmseg.utils import register_all_modules


@pytest.fixture(autouse=True)
def _mmseg_scope():
    """Build from mmseg's registries, as its tools do."""
    register_all_modules(init_default_scope=True)
