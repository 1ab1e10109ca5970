"""One graph each, without breaks. A backend that needs no C++ compiler stands for the others."""

import pytest
import torch

from model_zoo import tiny_model


def compiled(function):
    torch.compiler.reset()
    return torch.compile(function, backend='aot_eager', fullgraph=True, dynamic=False)


@torch.no_grad()
@pytest.mark.parametrize(
    ('out_type', 'prototypes'), [('groups', True), ('featmap', True), ('groups', False)]
)
def test_backbone(out_type, prototypes):
    backbone = tiny_model().backbone
    backbone.out_type = out_type
    if not prototypes:
        for stage in backbone.stages:
            stage.prototypes = None
    images = torch.rand(2, 3, 32, 48)
    expected = backbone(images)
    actual = compiled(backbone)(images)
    assert type(actual) is type(expected)
    torch.testing.assert_close(actual, expected)


@torch.no_grad()
@pytest.mark.parametrize('words', [[0, 1, 2, 3], [0, 0, 1, 2]])
@pytest.mark.parametrize('background_threshold', [None, 0.9])
def test_head(words, background_threshold):
    model = tiny_model()
    head = model.decode_head
    head.background_threshold = background_threshold
    head.set_class_embeds(torch.randn(4, 20), words)
    features = model.backbone(torch.rand(2, 3, 32, 48))
    for method, arguments in (
        (head.classify_groups, ()),
        (head.assign_pixels, ((32, 48),)),
        (head.forward, ()),
    ):
        torch.testing.assert_close(
            compiled(method)(features, *arguments), method(features, *arguments)
        )
