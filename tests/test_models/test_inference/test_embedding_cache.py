import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pgseg_mm.models.inference.embedding_cache import EmbeddingCache, describe_module, hash_of

KEY = 'a' * 64


@pytest.fixture
def cache(tmp_path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / 'made' / 'when needed')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_what_is_saved_is_loaded_to_the_last_bit(cache, dtype):
    embeds = torch.randn(3, 4).to(dtype)
    assert cache.load(KEY, (3, 4)) is None
    cache.save(KEY, embeds)
    loaded = cache.load(KEY, (3, 4))
    assert loaded.dtype == dtype
    assert torch.equal(loaded, embeds)
    assert [path.name for path in cache.folder.iterdir()] == [f'{KEY}.safetensors']


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    'empty': lambda path: path.write_bytes(b''),
    'cut': lambda path: path.write_bytes(path.read_bytes()[:-4]),
    'one bit': damage_byte,
    'text': lambda path: path.write_text('no tensors'),
    'other tensors': lambda path: save_file({'weights': torch.ones(3, 4)}, path),
    'other shape': lambda path: save_file({'embeds': torch.ones(4, 3)}, path),
    'no checksum': lambda path: save_file({'embeds': torch.ones(3, 4)}, path),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_and_replaced(cache, damage, log):
    cache.save(KEY, torch.ones(3, 4))
    damage(cache.path(KEY))
    assert cache.load(KEY, (3, 4)) is None
    assert f'{KEY}.safetensors is damaged and will be replaced' in log.text
    cache.save(KEY, torch.zeros(3, 4))
    assert torch.equal(cache.load(KEY, (3, 4)), torch.zeros(3, 4))


def test_a_folder_that_cannot_be_written_to_is_named(cache, log):
    cache.folder.parent.write_text('a file in the way')
    cache.save(KEY, torch.ones(3, 4))
    assert 'class embeddings are not kept in' in log.text


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match='must be a folder'):
        EmbeddingCache(tmp_path / 'file')


def test_a_tilde_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert EmbeddingCache('~/cache').folder == tmp_path / 'cache'


def test_every_byte_name_type_and_shape_counts():
    tensor = torch.arange(6.0)
    others = [
        ([1], [('a', tensor)]),
        ([], [('b', tensor)]),
        ([], [('a', tensor.double())]),
        ([], [('a', tensor.view(2, 3))]),
        ([], [('a', tensor + torch.tensor([0, 0, 0, 0, 0, 1e-6]))]),
        ([], [('a', tensor), ('b', tensor)]),
    ]
    hashes = {hash_of(*other) for other in others} | {hash_of([], [('a', tensor)])}
    assert len(hashes) == len(others) + 1
    assert hash_of([], [('a', tensor)]) == hash_of([], [('a', torch.arange(12.0)[:6])])


def test_a_module_is_described_by_its_types_and_settings_whatever_its_mode():
    module = nn.Sequential(nn.LayerNorm(4), nn.GELU())
    assert describe_module(module.train()) == describe_module(module.eval())
    for other in (
        nn.Sequential(nn.LayerNorm(4, eps=1e-6), nn.GELU()),
        nn.Sequential(nn.LayerNorm(4), nn.ReLU()),
        nn.Sequential(nn.LayerNorm(4), nn.GELU('tanh')),
    ):
        assert describe_module(other) != describe_module(module)


def test_embeddings_of_another_shape_are_not_taken(cache):
    cache.save(KEY, torch.ones(2, 3))
    assert cache.load(KEY, (2, 3)) is not None
    assert cache.load(KEY, (3, 2)) is None
