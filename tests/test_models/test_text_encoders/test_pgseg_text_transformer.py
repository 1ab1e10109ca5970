import pytest
import torch

from pgseg_mm.models import PGSegTextTransformer
from pgseg_mm.text import tokenize


def tiny(**kwargs) -> PGSegTextTransformer:
    torch.manual_seed(0)
    return PGSegTextTransformer(
        **{'embed_dims': 64, 'num_layers': 2, 'context_length': 16, **kwargs}
    ).eval()


def test_end_token_and_token_features_with_mask():
    tokens = tokenize(['a dog', 'a photo of a red car'], context_length=16)
    out = tiny()(tokens)
    assert out.eot.shape == (2, 64) and out.tokens.shape == (2, 16, 64)
    assert out.mask.sum(1).tolist() == [4, 8]  # start, words, end
    torch.testing.assert_close(out.eot[1], out.tokens[1, 7])


def test_padding_plays_no_part():
    short, long = (tokenize(['a dog'], context_length=n) for n in (4, 16))
    torch.testing.assert_close(tiny()(short).eot, tiny()(long).eot)


def test_words_behind_do_not_change_features_before():
    one, two = tokenize(['a red car', 'a red dog'], context_length=16)
    out = tiny()(torch.stack([one, two]))
    torch.testing.assert_close(out.tokens[0, :3], out.tokens[1, :3])
    assert not torch.allclose(out.tokens[0, 3], out.tokens[1, 3])


def test_a_caption_of_500_words_is_cut_with_its_end_token():
    tokens = tokenize(['dog ' * 500], context_length=16)
    out = tiny()(tokens)
    assert out.mask.all()
    torch.testing.assert_close(out.eot, out.tokens[:, -1])


def test_checkpointing_gives_the_same_gradients():
    tokens = tokenize(['a dog', 'a red car'], context_length=16)
    gradients = []
    for with_cp in (False, True):
        model = tiny(with_cp=with_cp)
        model(tokens).eot.square().sum().backward()
        gradients.append(model.blocks[0].mlp.fc1.weight.grad)
    torch.testing.assert_close(*gradients)


def test_published_size_and_initialisation():
    torch.manual_seed(0)
    model = PGSegTextTransformer()
    assert len(model.blocks) == 12 and model.blocks[0].attn.num_heads == 4
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.positional_embedding.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.blocks[3].mlp.fc1.weight.std().item() == pytest.approx(512**-0.5, rel=0.05)
    assert model.blocks[3].mlp.fc2.weight.std().item() == pytest.approx(
        256**-0.5 * 24**-0.5, rel=0.05
    )


def test_refuses_longer_texts_than_it_has_positions_for():
    with pytest.raises(ValueError, match='exceed context_length=16'):
        tiny()(torch.ones(1, 20, dtype=torch.long))


def test_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match='divisible'):
        tiny(num_heads=5)
