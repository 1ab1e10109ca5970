import pytest

from supervised_zoo import write_ade20k, write_voc


@pytest.fixture(scope='session')
def data_root(tmp_path_factory):
    """Miniatures of ADE20K and Pascal VOC; tests only read them."""
    root = tmp_path_factory.mktemp('data')
    write_ade20k(root)
    write_voc(root)
    return root
