import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def root(tmp_path):
    """A data root with two images."""
    (tmp_path / 'images').mkdir()
    for name in ('cat.png', 'dog.png'):
        Image.fromarray(np.full((6, 8, 3), 7, np.uint8)).save(tmp_path / 'images' / name)
    return tmp_path
