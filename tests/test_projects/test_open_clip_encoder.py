"""PGSegHead on open_clip's image tower: the baseline without training, and tuned on captions."""

import ast
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from benchmark_zoo import BENCHMARKS, ROOT, run_test_tool
from pgseg_mm.models import ClusterGrouping, OpenCLIPGroupViT, PGSegHead
from tiny_open_clip import CLIP, VISION, add_tiny_models, reference_model

CONFIGS = ROOT / 'projects/open_clip_encoder/configs'
ZERO_SHOT = CONFIGS / 'open-clip_vit-base-p16_zero-shot_voc20.py'
TUNED = CONFIGS / 'open-clip_vit-base-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
NAME = 'tiny-groups'
VIT = {**VISION, 'patch_size': 8, 'layers': 3}
WORDS = ['dog', 'cat', 'red car']
SMALL = [
    f'model.{part}.{key}'
    for part in ('backbone', 'text_encoder')
    for key in (f'model_name="{NAME}"', 'pretrained=None')
]
SMALL += [f'model.decode_head.{key}=24' for key in ('in_channels', 'channels', 'text_channels')]
SMALL += ['model.test_cfg.crop_size=(32,32)', 'model.test_cfg.stride=(16,16)']
SMALL += ['model.templates="simple"']
SMALL_GROUPING = [
    f'model.backbone.grouping.{key}'
    for key in ('num_heads=2', 'num_group_tokens=6', 'num_groups=4', 'depth=1')
]
SMALL_GROUPING += ['model.backbone.grouping.prototypes.hidden_channels=16']
RESIZE = dict(type='Resize', scale=(2048, 48), keep_ratio=True)


@pytest.fixture(scope='module', autouse=True)
def _tiny_models(tmp_path_factory):
    kinds = {
        NAME: {'text_cfg': CLIP, 'vision_cfg': VIT, 'quick_gelu': True},
        'tiny-average': {'text_cfg': CLIP, 'vision_cfg': {**VIT, 'pool_type': 'avg'}},
        'tiny-resnet': {'text_cfg': CLIP, 'vision_cfg': {**VIT, 'layers': [1, 1, 1, 1]}},
    }
    add_tiny_models(tmp_path_factory.mktemp('models'), **kinds)


@pytest.fixture(scope='module')
def reference() -> torch.nn.Module:
    """The whole model, as open_clip has it."""
    return reference_model(NAME)


@pytest.fixture(scope='module')
def weights(reference, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'tiny.pt'
    torch.save(reference.state_dict(), path)
    return path


def small(config: Path, *options: str, weights: Path | None = None) -> Config:
    """A config at reduced size."""
    cfg = Config.fromfile(config)
    given = dict(option.split('=', 1) for option in (*SMALL, *options))
    cfg.merge_from_dict({key: ast.literal_eval(value) for key, value in given.items()})
    if weights is not None:
        cfg.model.backbone.pretrained = cfg.model.text_encoder.pretrained = str(weights)
    return cfg


def backbone(weights: Path | None = None, **kwargs) -> OpenCLIPGroupViT:
    kwargs.setdefault('grouping', dict(type='ClusterGrouping'))
    torch.manual_seed(0)
    return OpenCLIPGroupViT(NAME, None if weights is None else str(weights), **kwargs).eval()


@torch.no_grad()
def test_one_group_of_all_patches_is_open_clips_image(reference, weights):
    """Logits of the baseline, from what open_clip's encode_image and encode_text give."""
    cfg = small(ZERO_SHOT, 'model.backbone.grouping.seed_grid=(1,1)', weights=weights)
    model = MODELS.build(cfg.model).double().eval()
    model.set_vocabulary(WORDS)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    model.predict(images)

    tokens = open_clip.get_tokenizer(NAME)([f'a photo of a {word}.' for word in WORDS])
    embeds = F.normalize(reference.encode_image(images), dim=-1)
    expected = 100 * embeds @ F.normalize(reference.encode_text(tokens), dim=-1).T
    found = model.decode_head.classify_images(model.extract_feat(images))
    # the weights went through single precision, and the head normalises in it
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize('hard', [True, False])
def test_groups_are_described_by_what_they_have_pooled(hard, monkeypatch):
    grouping = dict(type='LearnedGrouping', num_heads=2, num_group_tokens=6, num_groups=4, depth=1)
    model = backbone(grouping=dict(grouping, hard_assign=hard)).train()
    drawn, seen = [], []
    noisy, describe = F.gumbel_softmax, model._describe
    monkeypatch.setattr(
        F, 'gumbel_softmax', lambda *a, **k: drawn.append(noisy(*a, **k)) or drawn[-1]
    )
    monkeypatch.setattr(model, '_describe', lambda *a: seen.append(a[-1]) or describe(*a))
    out = model(torch.randn(2, 3, 32, 32))
    pooled = drawn[0] if hard else out.assignments[0]
    assert len(drawn) == hard and torch.equal(seen[0][:, :, 1:], pooled)
    torch.testing.assert_close(seen[0][:, :, 0], pooled.mean(dim=2))


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('half', [False, True])
def test_attention_to_groups_has_a_gradient_of_its_mask(device, half, monkeypatch):
    """On GPUs only plain attention has one; the tower itself is frozen."""
    fused = []
    attend = F.scaled_dot_product_attention

    def watched(query, key, value, mask=None, *args, **kwargs):
        if mask is not None and mask.requires_grad:
            cuda = torch.backends.cuda
            kernels = ('cudnn', 'flash', 'mem_efficient')
            fused.extend(getattr(cuda, f'{name}_sdp_enabled')() for name in kernels)
        return attend(query, key, value, mask, *args, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', watched)
    model = backbone(grouping=dict(type='LearnedGrouping', num_heads=2, num_groups=4, depth=1))
    model = model.train().to(device)
    with torch.autocast(device, torch.bfloat16, enabled=half):
        features = model(torch.rand(2, 3, 32, 32, device=device))
    (features.tokens.float() * torch.arange(4.0, device=device)[:, None]).sum().backward()
    assert fused and not any(fused)
    assert all(p.grad.isfinite().all() for p in model.grouping.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.grouping.parameters())


@torch.no_grad()
def test_a_group_is_what_the_class_token_sees_of_it(reference, monkeypatch):
    """The last block's attention, computed head by head from open_clip's weights."""
    model = backbone().double()
    model.tower.load_state_dict(reference.visual.state_dict())
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    groups = torch.arange(16) % 3
    assignment = F.one_hot(groups, 3).T[None].double()
    out = model.grouping(torch.randn(1, 16, 32).double(), (4, 4))
    monkeypatch.setattr(model.grouping, 'forward', lambda *_: out._replace(assignment=assignment))
    tokens = model(images).tokens[0]

    tower = reference.visual
    x = tower._embeds(images)
    for block in tower.transformer.resblocks[:-1]:
        x = block(x)
    last = tower.transformer.resblocks[-1]
    q, k, v = F.linear(last.ln_1(x)[0], last.attn.in_proj_weight, last.attn.in_proj_bias).chunk(
        3, 1
    )
    for group in range(3):
        members = (groups == group).double()
        shares = torch.cat([members.mean()[None], members])
        heads = []
        for head in range(2):
            part = slice(16 * head, 16 * head + 16)
            seen = shares * (k[:, part] @ q[0, part] / 4).exp()
            heads.append(seen @ v[:, part] / seen.sum())
        y = x[0, 0] + last.attn.out_proj(torch.cat(heads))
        y = y + last.mlp(last.ln_2(y))
        # the smallest share of patches of other groups is not quite zero
        torch.testing.assert_close(tokens[group], tower.ln_post(y) @ tower.proj, atol=1e-4, rtol=0)


def test_clusters_follow_what_is_alike():
    """Four quadrants of different vectors and some noise, seeded by quadrants."""
    torch.manual_seed(0)
    parts = torch.randn(4, 32)
    quadrant = (torch.arange(6)[:, None] >= 3) * 2 + (torch.arange(6) >= 3)
    quadrant[0, 5] = 2  # a patch that is like those at another place
    x = parts[quadrant.flatten()][None] + 0.1 * torch.randn(1, 36, 32)
    out = ClusterGrouping(32, seed_grid=(2, 2))(x, (6, 6))
    assert out.assignment.shape == (1, 4, 36)
    torch.testing.assert_close(out.assignment.sum(1), torch.ones(1, 36))
    assert torch.equal(out.assignment.argmax(1)[0], quadrant.flatten())


@pytest.mark.parametrize('size', [(32, 32), (40, 72), (8, 50)])
@torch.no_grad()
def test_images_of_any_size(size):
    features = backbone()(torch.randn(2, 3, *size))
    grid = (size[0] // 8, size[1] // 8)
    assert features.grid_size == grid
    assert features.tokens.shape == (2, 9, 24)
    assert features.patch_assignment().shape == (2, 9, *grid)


def test_training_starts_where_open_clip_is(weights):
    """A learned grouping adds nothing to the description of its groups, until it is trained."""
    grouping = dict(num_heads=2, num_group_tokens=6, num_groups=1)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        learned = backbone(weights, grouping=grouping)(images)
        clusters = backbone(weights, grouping=dict(type='ClusterGrouping', seed_grid=(1, 1)))
        torch.testing.assert_close(learned.tokens, clusters(images).tokens)


@pytest.mark.parametrize(('layers', 'trained'), [(0, set()), (1, {'2'}), (None, {'0', '1', '2'})])
def test_towers_are_frozen_in_part(layers, trained):
    model = backbone(trainable_layers=layers)
    names = [name for name, p in model.tower.named_parameters() if p.requires_grad]
    blocks = {name.split('.')[2] for name in names if name.startswith('transformer.')}
    assert blocks == trained
    assert ('proj' in names) == ('ln_post.weight' in names) == bool(trained)
    assert ('conv1.weight' in names) == (layers is None)
    assert model.train().tower.training == (layers != 0)


def test_errors_say_what_to_do(tmp_path):
    for kind in ('tiny-average', 'tiny-resnet', 'tiny-coca', 'ViT-B-16-SigLIP'):
        with pytest.raises(ValueError, match='not a plain ViT that pools by its class token'):
            OpenCLIPGroupViT(kind)
    with pytest.raises(ValueError, match='from 0 to 3, the number of blocks'):
        backbone(trainable_layers=4)
    with pytest.raises(ValueError, match='in_channels=32 must be channels=24'):
        PGSegHead(in_channels=32, channels=24, hidden_channels=None)
    with pytest.raises(ValueError, match='text_channels=32 must be channels=24'):
        PGSegHead(in_channels=24, channels=24, text_channels=32, hidden_channels=None)
    with pytest.raises(ValueError, match='at least one patch of 8 pixels'):
        backbone()(torch.zeros(1, 3, 7, 20))
    other = open_clip.create_model('tiny-clip', pretrained_hf=False)
    torch.save(other.state_dict(), tmp_path / 'other.pt')
    with pytest.raises(ValueError, match=f'does not fit the image tower of {NAME}'):
        backbone(tmp_path / 'other.pt')


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Pascal VOC in small, and pairs of pictures and captions, from another working directory."""
    folder = tmp_path / 'data'
    BENCHMARKS[1].write(folder)
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(folder))
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
        rows.append(json.dumps(dict(image=f'{i}.png', caption=f'a {WORDS[i % 3]} on grass')))
    (folder / 'captions_train.jsonl').write_text('\n'.join(rows))
    return folder


def test_baseline_runs_without_training(data, tmp_path, weights):
    options = [*SMALL, 'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
    options += [f'model.{part}.pretrained="{weights}"' for part in ('backbone', 'text_encoder')]
    result = run_test_tool(ZERO_SHOT, 'none', tmp_path / 'work', '--allow-partial', options=options)
    assert result.areas.label.sum() > 0 and (result.areas.prediction > 0).sum() > 1
    assert 0 <= result.metrics['mIoU'] <= 100


def test_grouping_is_tuned_on_captions(data, tmp_path, weights, monkeypatch):
    cfg = small(TUNED, *SMALL_GROUPING, weights=weights)
    pairs = Config.fromfile(ROOT / 'configs/_base_/datasets/emoji_scenes_64x64.py')
    cfg.train_dataloader = pairs.train_dataloader
    cfg.train_dataloader.dataset.dataset.data_root = str(data)
    cfg.train_dataloader.dataset.dataset.pipeline[1].context_length = CLIP['context_length']
    cfg.train_dataloader.batch_size = 8
    cfg.train_dataloader.sampler.infinite = False
    cfg.val_dataloader.dataset.pipeline[1] = RESIZE
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg = dict(type='ResumableEpochLoop', max_epochs=2, val_interval=2)
    cfg.optim_wrapper.optimizer.lr = 1e-2
    cfg.param_scheduler = None
    cfg.work_dir = str(tmp_path / 'work')
    cfg.log_level = 'WARNING'
    monkeypatch.setattr(Config, 'pretty_text', 'formatting takes longer than the run')
    runner = Runner.from_cfg(cfg)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert not any('tower' in name for name in moved)
    trained = {name for name, p in runner.model.named_parameters() if p.requires_grad}
    still = {  # a scale at its limit, and a bias that batch norm takes out again
        'decode_head.loss_contrastive.logit_scale',
        'backbone.grouping.reconstruction.fc1.bias',
    }
    assert trained - moved <= still
    assert 'backbone.grouping.prototypes.mu' in moved
    scalars = runner.message_hub.log_scalars
    assert {'train/loss_contrastive', 'train/loss_npr_0'} <= scalars.keys()
    assert np.isfinite(scalars['train/loss'].current())
    assert 0 <= scalars['val/mIoU'].current() <= 100
