"""OpenCLIPTextEncoder is held to open_clip's own models, built whole."""

import copy
from pathlib import Path

import open_clip
import pytest
import torch
from mmseg.registry import MODELS
from safetensors.torch import save_file

from model_zoo import tiny_model_cfg
from pgseg_mm.models import OpenCLIPTextEncoder, PGSegTextTransformer
from pgseg_mm.text import tokenize
from tiny_open_clip import add_tiny_models, make_hf_files, reference_model

NATIVE = [
    'tiny-clip',
    'tiny-clip-quickgelu',
    'tiny-custom-text',
    'tiny-last',
    'tiny-no-projection',
    'tiny-bidirectional',
    'tiny-eos',
    'tiny-coca',
]
TOWERS = [*NATIVE, 'tiny-hf']


@pytest.fixture(scope='module', autouse=True)
def _models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('open_clip')
    add_tiny_models(folder, **{'tiny-hf': make_hf_files(folder)})


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Reference model and checkpoint of a name."""
    made = {}

    def make(name: str) -> tuple[torch.nn.Module, str]:
        if name not in made:
            model, path = reference_model(name), tmp_path_factory.mktemp('weights') / f'{name}.pt'
            torch.save(model.state_dict(), path)
            made[name] = (model, str(path))
        return made[name]

    return make


def token_ids(name: str) -> torch.Tensor:
    """Two texts of 6 and 4 tokens at the model's full length."""
    if name in ('tiny-clip', 'tiny-clip-quickgelu', 'tiny-custom-text', 'tiny-bidirectional'):
        return tokenize(['a red car.', 'dogs bark'], 16)
    if name == 'tiny-hf':
        return tokenize(['a photo of dog', 'red car'], model=name)
    ids = torch.zeros(2, 15 if name == 'tiny-coca' else 16, dtype=torch.long)
    end = {'tiny-eos': 2, 'tiny-coca': 99}.get(name, 1)
    ids[0, :6] = torch.tensor([7, 50, 20, 31, 8, end])
    ids[1, :4] = torch.tensor([7, 60, 42, end])
    return ids


def normalised_tokens(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Token features by a hook on open_clip's model."""
    text = getattr(model, 'text', model)
    seen = []
    handle = text.transformer.register_forward_hook(lambda *args: seen.append(args[-1]))
    model.encode_text(ids)
    handle.remove()
    if hasattr(text, 'ln_final'):
        return text.ln_final(seen[0])[:, : ids.shape[1]]
    return seen[0].last_hidden_state


@pytest.mark.parametrize('name', TOWERS)
def test_equals_open_clip(name, saved):
    reference, path = saved(name)
    encoder = OpenCLIPTextEncoder(name, pretrained=path).double().eval()
    ids = token_ids(name)
    with torch.no_grad():
        eot, tokens = reference.encode_text(ids, normalize=False), normalised_tokens(reference, ids)
        whole, cut = encoder(ids), encoder(ids[:, :8])
    # the encoder's weights went through float32
    torch.testing.assert_close(whole.eot, eot, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.tokens, tokens, rtol=0, atol=1e-6)
    torch.testing.assert_close(cut.eot, eot, rtol=0, atol=1e-6)
    torch.testing.assert_close(cut.tokens, tokens[:, :8], rtol=0, atol=1e-6)
    assert whole.mask.sum(dim=1).tolist() == cut.mask.sum(dim=1).tolist() == [6, 4]
    assert whole.eot.shape == (2, encoder.embed_dims)
    assert whole.tokens.shape == (2, encoder.context_length, encoder.token_dims)


def test_activation_follows_the_name(saved):
    _, path = saved('tiny-clip')
    gelu, quick_gelu = (
        OpenCLIPTextEncoder(name, pretrained=path).eval()
        for name in ('tiny-clip', 'tiny-clip-quickgelu')
    )
    ids = token_ids('tiny-clip')
    assert (gelu(ids).eot - quick_gelu(ids).eot).abs().max() > 1e-3


def test_the_image_tower_is_not_built(saved):
    reference, _ = saved('tiny-clip')
    count = sum(p.numel() for n, p in reference.named_parameters() if not n.startswith('visual.'))
    encoder = OpenCLIPTextEncoder('tiny-clip')
    assert sum(p.numel() for p in encoder.parameters()) == count - 1  # the temperature


def test_padding_of_the_tokenizers_beside_clips():
    ids = torch.ones(5, 16, dtype=torch.long)  # SigLIP pads with the id of its end token
    ids[0, :3], ids[1, :15] = torch.tensor([7, 50, 50]), torch.tensor([7] + [50] * 14)
    ids[3, 3:], ids[4, 3:] = 0, 0  # SigLIP 2 pads with 0, and so does CLIPA, without an end token
    ids[3, :2], ids[4, :3] = torch.tensor([7, 50]), torch.tensor([7, 50, 50])
    mask = OpenCLIPTextEncoder('tiny-last')(ids).mask
    assert mask.sum(dim=1).tolist() == [4, 16, 1, 3, 3]
    assert torch.equal(mask, mask.cummin(dim=1).values)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize('form', ['tower', 'training', 'distributed', 'half', 'safetensors'])
def test_forms_of_a_checkpoint(form, saved, tmp_path):
    reference, _ = saved('tiny-custom-text')
    state = {k: v.float().contiguous() for k, v in reference.state_dict().items()}
    path = tmp_path / ('weights.safetensors' if form == 'safetensors' else 'weights.pt')
    if form == 'safetensors':
        save_file(state, path)
    elif form == 'tower':
        torch.save(reference.text.state_dict(), path)
    elif form == 'training':
        torch.save({'epoch': 3, 'name': 'run', 'state_dict': state}, path)
    elif form == 'distributed':
        torch.save({'state_dict': {f'module.{k}': v for k, v in state.items()}}, path)
    else:
        torch.save({k: v.half() for k, v in state.items()}, path)
    tower = OpenCLIPTextEncoder('tiny-custom-text', pretrained=str(path)).tower.state_dict()
    tolerance = 1e-3 if form == 'half' else 1e-7
    for name, value in reference.text.state_dict().items():
        torch.testing.assert_close(tower[name], value.float(), rtol=tolerance, atol=tolerance)
        assert tower[name].dtype == torch.float32


def test_entries_of_other_parts_are_counted_in_the_log(saved, monkeypatch):
    reference, path = saved('tiny-clip')
    logged = []
    monkeypatch.setattr(
        'pgseg_mm.serialization.open_clip_weights.print_log',
        lambda message, logger: logged.append(message),
    )
    OpenCLIPTextEncoder('tiny-clip', pretrained=path)
    image = sum(key.startswith('visual.') for key in reference.state_dict())
    assert len(logged) == 1 and f'visual ({image})' in logged[0] and 'logit_scale (1)' in logged[0]


def test_entries_that_do_not_fit_are_named(saved, tmp_path):
    reference, _ = saved('tiny-clip')
    state = reference.state_dict()
    del state['ln_final.bias']
    state['positional_embedding'] = state['positional_embedding'][:8]
    state['transformer.resblocks.3.ln_1.bias'] = torch.zeros(32)
    torch.save(state, tmp_path / 'other.pt')
    with pytest.raises(ValueError, match='does not fit the text tower of tiny-clip') as caught:
        OpenCLIPTextEncoder('tiny-clip', pretrained=str(tmp_path / 'other.pt'))
    assert '1 missing: ln_final.bias' in str(caught.value)
    assert '1 unknown: transformer.resblocks.3.ln_1.bias' in str(caught.value)
    assert 'positional_embedding is (8, 32) instead of (16, 32)' in str(caught.value)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({'backbone.weight': torch.zeros(2)}, tmp_path / 'other.pt')
    with pytest.raises(ValueError, match=r'entries \d+ missing: positional_embedding, text_proj'):
        OpenCLIPTextEncoder('tiny-clip', pretrained=str(tmp_path / 'other.pt'))
    torch.save({'epoch': 3}, tmp_path / 'none.pt')
    with pytest.raises(ValueError, match='holds no state dict'):
        OpenCLIPTextEncoder('tiny-clip', pretrained=str(tmp_path / 'none.pt'))


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    mark = tmp_path / 'was_run'
    torch.save({'ln_final.bias': Malicious(mark)}, tmp_path / 'bad.pt')
    with pytest.raises(ValueError, match='bad.pt holds no state dict of tensors'):
        OpenCLIPTextEncoder('tiny-clip', pretrained=str(tmp_path / 'bad.pt'))
    assert not mark.exists()
    torch.load(tmp_path / 'bad.pt', weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize('name', ['bad.pt', 'bad.safetensors'])
def test_a_broken_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match='cannot be read as a'):
        OpenCLIPTextEncoder('tiny-clip', pretrained=str(tmp_path / name))


def test_weights_by_tag(saved, monkeypatch):
    reference, path = saved('tiny-clip')
    tags = {'mine': {'file': path}, 'quick': {'file': path, 'quick_gelu': True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-clip', tags)
    encoder = OpenCLIPTextEncoder('tiny-clip', pretrained='mine')
    torch.testing.assert_close(
        encoder.tower.text_projection, reference.text_projection.float(), rtol=0, atol=0
    )
    with pytest.warns(UserWarning, match="with QuickGELU, .* use model_name='tiny-clip-quickgelu'"):
        OpenCLIPTextEncoder('tiny-clip', pretrained='quick')
    with pytest.raises(ValueError, match=r"'none'.* has for tiny-clip; its tags are: mine, quick"):
        OpenCLIPTextEncoder('tiny-clip', pretrained='none')


def test_without_a_network_a_download_says_so(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    tag = {'tag': {'hf_hub': 'nobody/nothing/'}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-clip', tag)
    with pytest.raises(RuntimeError, match="The weights 'tag' of tiny-clip could not be downloade"):
        OpenCLIPTextEncoder('tiny-clip', pretrained='tag')
    with pytest.raises(RuntimeError, match="Hugging Face config 'roberta-base', which could not"):
        OpenCLIPTextEncoder('roberta-ViT-B-32')


def test_unknown_names_and_paths():
    with pytest.raises(ValueError, match=r"no model 'tiny-clop'; did you mean .*tiny-clip"):
        OpenCLIPTextEncoder('tiny-clop')
    with pytest.raises(FileNotFoundError, match=r"'there/is.none' is neither a file nor a tag"):
        OpenCLIPTextEncoder('tiny-clip', pretrained='there/is.none')


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize('trainable_layers', [None, 1, 3])
@pytest.mark.parametrize('name', TOWERS)
def test_every_trainable_parameter_gets_a_gradient(name, trainable_layers):
    encoder = OpenCLIPTextEncoder(name, trainable_layers=trainable_layers)
    encoder(token_ids(name)).eot.square().sum().backward()
    trainable = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert trainable == {n for n, p in encoder.named_parameters() if p.grad is not None}
    assert len(trainable) > 0


def test_what_is_trained_in_part():
    encoder = OpenCLIPTextEncoder('tiny-last', trainable_layers=2)
    trained = {name for name, p in encoder.tower.named_parameters() if p.requires_grad}
    blocks = {name for name in trained if name.startswith('transformer.resblocks.')}
    assert {name.split('.')[2] for name in blocks} == {'1', '2'}
    assert len(blocks) == 2 * 12
    assert trained - blocks == {
        'ln_final.weight',
        'ln_final.bias',
        'text_projection.weight',
        'text_projection.bias',
    }


def test_a_frozen_tower_builds_no_graph_and_stays_in_evaluation_mode():
    encoder = OpenCLIPTextEncoder('tiny-hf', trainable_layers=0).train()
    assert encoder.training and not any(module.training for module in encoder.tower.modules())
    out = encoder(token_ids('tiny-hf'))
    assert not out.eot.requires_grad and not out.tokens.requires_grad
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_number_of_blocks_it_does_not_have_is_refused():
    for name in ('tiny-clip', 'tiny-hf'):
        for number in (-1, 4):
            with pytest.raises(ValueError, match=f'from 0 to 3, .* of {name}, got {number}'):
                OpenCLIPTextEncoder(name, trainable_layers=number)


def test_a_tower_whose_blocks_open_clip_does_not_know_is_trained_whole_or_not_at_all(tmp_path):
    from transformers import BertConfig

    sizes = {'num_hidden_layers': 1, 'num_attention_heads': 1, 'intermediate_size': 8}
    BertConfig(vocab_size=20, hidden_size=8, **sizes).save_pretrained(tmp_path / 'bert')
    text_cfg = {'hf_model_name': str(tmp_path / 'bert'), 'hf_pooler_type': 'cls_pooler'}
    add_tiny_models(tmp_path, **{'tiny-bert': {'text_cfg': text_cfg}})
    ids = torch.tensor([[5, 6, 7, 0]])
    for trainable_layers in (None, 0):
        out = OpenCLIPTextEncoder('tiny-bert', trainable_layers=trainable_layers)(ids)
        assert out.tokens.shape == (1, 4, 8) and out.mask.tolist() == [[True] * 3 + [False]]
    with pytest.raises(ValueError, match='blocks of the bert in tiny-bert, .* in part'):
        OpenCLIPTextEncoder('tiny-bert', trainable_layers=1)


@pytest.mark.parametrize('name', ['tiny-clip', 'tiny-last', 'tiny-hf'])
def test_checkpointing_gives_the_same_gradients(name):
    torch.manual_seed(0)
    plain = OpenCLIPTextEncoder(name)
    checkpointed = OpenCLIPTextEncoder(name, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    for encoder in (plain, checkpointed):
        encoder(token_ids(name)).eot.square().sum().backward()
    gradients = dict(plain.named_parameters())
    for key, parameter in checkpointed.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key].grad)


# --- in PGSeg ------------------------------------------------------------------------------------


def pgseg(**kwargs):
    torch.manual_seed(0)
    cfg = tiny_model_cfg()
    cfg['text_encoder'] = {'type': 'OpenCLIPTextEncoder', **kwargs}
    cfg['decode_head']['text_channels'] = 24
    return MODELS.build(cfg)


@pytest.mark.parametrize(
    ('name', 'trainable_layers'),
    [('tiny-clip', None), ('tiny-clip', 1), ('tiny-clip', 0), ('tiny-hf', 0)],
)
def test_pgseg_learns_and_segments_with_it(name, trainable_layers):
    model = pgseg(model_name=name, trainable_layers=trainable_layers)
    before = copy.deepcopy(model.text_encoder.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    texts = ['a dog', 'a red car', 'a photo of a cat']
    tokens = model.text_encoder.tokenize(texts)
    assert tokens.shape == (3, model.text_encoder.context_length)
    batch = model.data_preprocessor({'inputs': torch.rand(3, 3, 32, 32), 'tokens': tokens}, True)
    losses = model.train()(**batch, mode='loss')
    model.parse_losses(losses)[0].backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.decode_head.text_projector.parameters())
    after = model.text_encoder.state_dict()
    unmoved = [key for key, value in before.items() if torch.equal(value, after[key])]
    if trainable_layers == 0:
        assert len(unmoved) == len(before)
    else:
        frozen = {n for n, p in model.text_encoder.named_parameters() if not p.requires_grad}
        assert set(unmoved) == frozen

    model.eval().set_vocabulary(['dog', 'cat', 'red car'])
    images = torch.randn(2, 3, 32, 40)
    result = model.predict(images)
    assert result[0].pred_sem_seg.data.shape == (1, 32, 40)

    copied = pgseg(model_name=name, trainable_layers=trainable_layers).eval()
    copied.load_state_dict(model.state_dict())
    embeds = copied.embed_words(['dog', 'cat'])
    torch.testing.assert_close(embeds, model.embed_words(['dog', 'cat']), rtol=0, atol=0)
    assert not torch.equal(embeds[0], embeds[1])


def test_text_encoders_tell_the_width_of_their_tokens():
    assert OpenCLIPTextEncoder('tiny-clip').token_dims == 32
    assert OpenCLIPTextEncoder('tiny-hf').token_dims == 32
    assert PGSegTextTransformer(embed_dims=64, num_layers=1).token_dims == 64


def test_longer_texts_than_it_has_positions_for_are_refused():
    with pytest.raises(ValueError, match='exceed context_length=16 of tiny-clip'):
        OpenCLIPTextEncoder('tiny-clip')(torch.ones(1, 20, dtype=torch.long))
