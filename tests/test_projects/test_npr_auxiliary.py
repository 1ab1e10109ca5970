"""NPR as an auxiliary loss of Segmenter's class tokens, and of other queries."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from pgseg_mm.cli.config_files import read_config_file
from supervised_zoo import losses, metric, small_config, trained, without_gradient

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'projects' / 'npr_auxiliary'
CONFIGS = sorted((FOLDER / 'configs').glob('segmenter_vit-small-*.py'))
SMALL = {
    'model.backbone.img_size': (32, 32),
    'model.backbone.patch_size': 8,
    'model.backbone.embed_dims': 24,
    'model.backbone.num_layers': 2,
    'model.backbone.num_heads': 3,
    'model.backbone.init_cfg': None,
    'model.decode_head.in_channels': 24,
    'model.decode_head.channels': 24,
    'model.decode_head.embed_dims': 24,
    'model.decode_head.num_layers': 1,
    'model.decode_head.num_heads': 3,
    'model.decode_head.loss_npr.begin': 0,
    'model.decode_head.loss_npr.ramp': 0,
}


@pytest.fixture(scope='module', autouse=True)
def project():
    """The project's modules, as tools/train.py makes them importable."""
    read_config_file(str(CONFIGS[0]))
    import projects.npr_auxiliary

    return projects.npr_auxiliary


def head_cfg(**kwargs) -> dict:
    return dict(
        type='NPRSegmenterHead',
        in_channels=24,
        channels=24,
        num_classes=5,
        num_layers=2,
        num_heads=3,
        embed_dims=24,
        dropout_ratio=0.0,
        drop_path_rate=0.0,
        **kwargs,
    )


def model_of(head: dict) -> nn.Module:
    """A small Segmenter, the same at every call but for its head."""
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            backbone=dict(
                type='VisionTransformer',
                img_size=(32, 32),
                patch_size=8,
                embed_dims=24,
                num_layers=1,
                num_heads=3,
                final_norm=True,
            ),
            decode_head=head,
            train_cfg=dict(),
            test_cfg=ConfigDict(mode='whole'),
        )
    )
    model.init_weights()
    return model


def batch(size: int = 2) -> tuple[torch.Tensor, list[SegDataSample]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (size, 1, 32, 32), generator=generator)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    return torch.randn(size, 3, 32, 32, generator=generator), samples


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_trains_and_evaluates(path, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(data_root))
    monkeypatch.chdir(tmp_path)
    runner = trained(small_config(path, SMALL, tmp_path / 'work'))
    assert all(0 < loss < math.inf for loss in losses(runner, 'decode.loss_npr'))
    assert 0 <= metric(runner) <= 100
    assert without_gradient(runner) == []
    assert f'configs/{path.name}' in (FOLDER / 'README.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_differs_from_mmsegs_by_its_head_alone(path):
    head = Config.fromfile(path).model.decode_head
    assert head.type == 'NPRSegmenterHead'
    assert head.loss_npr == dict(loss_weight=0.1, begin=1000, ramp=1000)
    assert head.num_classes == (150 if 'ade20k' in path.stem else 21)


def test_gradients_reach_the_class_tokens():
    model = model_of(head_cfg(loss_npr=dict(loss_weight=1.0))).train()
    found = model.loss(*batch())
    assert found.keys() == {'decode.loss_ce', 'decode.acc_seg', 'decode.loss_npr'}
    found['decode.loss_npr'].backward()
    assert model.decode_head.cls_emb.grad.abs().sum() > 0
    assert model.backbone.patch_embed.projection.weight.grad.abs().sum() > 0
    assert model.decode_head.classes_proj.weight.grad is None  # behind the tokens


def test_prototypes_are_of_the_features_and_get_no_gradient():
    model = model_of(head_cfg()).train()
    head = model.decode_head
    images, samples = batch()
    maps = model.extract_feat(images)
    before = head.npr.loss.prototypes.mu.clone()
    expected = head.npr.loss.prototypes.cluster(maps[-1].flatten(2).transpose(1, 2)).prototypes
    seen = []
    original = head.npr.loss.start
    head.npr.loss.start = lambda *args: seen.append(args) or original(*args)
    head.loss(maps, samples, {})
    ((groups, prototypes),) = seen
    assert groups.shape == prototypes.shape == (2, 5, 24)
    assert groups.requires_grad and not prototypes.requires_grad
    torch.testing.assert_close(prototypes, expected)
    assert not torch.equal(before, head.npr.loss.prototypes.mu)


def test_few_steps_lower_it():
    model = model_of(head_cfg(loss_npr=dict(loss_weight=1.0))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    values = []
    for _ in range(20):
        loss = model.loss(*batch())['decode.loss_npr']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-3:]) < 0.7 * sum(values[:3])


def test_evaluation_and_the_other_losses_are_those_of_mmsegs_head():
    with_npr = model_of(head_cfg())
    plain = model_of(head_cfg() | {'type': 'SegmenterMaskTransformerHead'})
    missing = with_npr.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith('decode_head.npr.') for key in missing.missing_keys)
    images, samples = batch()
    with torch.no_grad():
        results = [model.eval().predict(images) for model in (plain, with_npr)]
        found = [model.train().loss(images, samples) for model in (plain, with_npr)]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a.seg_logits.data, b.seg_logits.data)
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)
    assert torch.equal(found[0]['decode.loss_ce'], found[1]['decode.loss_ce'])
    assert found[1].keys() - found[0].keys() == {'decode.loss_npr'}


class QueryDecoder(nn.Module):
    """Learned queries that read a map; returns them after each layer, (L, B, G, C)."""

    def __init__(self, num_queries, channels, memory):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, num_queries, channels))
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(channels, 2, kdim=memory, vdim=memory, batch_first=True)
            for _ in range(2)
        )

    def forward(self, memory):
        queries, outputs = self.queries.expand(len(memory), -1, -1), []
        for layer in self.layers:
            queries = queries + layer(queries, memory, memory)[0]
            outputs.append(queries)
        return torch.stack(outputs)


class QueryHead(BaseModule):
    """What MaskFormer's head has: queries whose count and channels are not those of the map."""

    def __init__(self, num_queries, channels, in_channels):
        super().__init__()
        self.transformer_decoder = QueryDecoder(num_queries, channels, in_channels)
        self.not_used = nn.Identity()

    def loss(self, x, batch_data_samples, train_cfg):
        queries = self.transformer_decoder(x[-1].flatten(2).transpose(1, 2))
        return dict(loss_cls=queries[-1].square().mean())


def test_any_module_that_gives_queries(project):
    class NPRQueryHead(project.NPRHeadMixin, QueryHead):
        pass

    def build(query_module, num_prototypes=7):
        npr = dict(num_queries=num_prototypes, query_channels=16, feature_channels=24)
        sizes = dict(num_queries=7, channels=16, in_channels=24)
        return NPRQueryHead(query_module=query_module, npr=npr, **sizes)

    torch.manual_seed(0)
    maps = [torch.rand(2, 24, 4, 4)]
    head = build('transformer_decoder')
    found = head.loss(maps, [], {})
    assert found.keys() == {'loss_cls', 'loss_npr'}
    found['loss_npr'].backward()
    assert head.transformer_decoder.queries.grad.abs().sum() > 0
    assert head.npr.proj.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r'num_queries=8 of them \(G\), got \(2, 2, 7, 16\)'):
        build('transformer_decoder', num_prototypes=8).loss(maps, [], {})
    with pytest.raises(RuntimeError, match="'not_used' of NPRQueryHead did not run"):
        build('not_used').loss(maps, [], {})
    with pytest.raises(AttributeError, match='decoder'):
        build('decoder')


def test_tool_finds_the_project_from_another_folder(data_root, tmp_path, monkeypatch):
    (path,) = (path for path in CONFIGS if 'ade20k' in path.stem)
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(data_root))
    (tmp_path / 'lib').mkdir()
    (tmp_path / 'lib' / 'pgseg_mm').symlink_to(ROOT / 'pgseg_mm')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'lib'))
    options = {
        **SMALL,
        'model.data_preprocessor.size': (32, 32),
        'train_cfg.max_iters': 1,
        'train_cfg.val_interval': 1,
        'train_dataloader.dataset.dataset.pipeline.2.scale': (80, 32),
        'train_dataloader.dataset.dataset.pipeline.3.crop_size': (32, 32),
        'val_dataloader.dataset.pipeline.1.scale': (80, 32),
        **{
            f'{split}_dataloader.{key}': value
            for split in ('train', 'val')
            for key, value in (('num_workers', 0), ('persistent_workers', False))
        },
    }
    values = [f'{key}={str(value).replace(" ", "")}' for key, value in options.items()]
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(path), '--cfg-options']
    done = subprocess.run(
        [*command, *values], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'loss_npr' in done.stdout and 'mIoU' in done.stdout
    assert (tmp_path / 'work_dirs' / path.stem / 'iter_1.pth').is_file()
