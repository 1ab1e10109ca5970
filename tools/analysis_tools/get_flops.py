"""Multiply-adds and parameters of a model, part by part.

As in mmseg, "FLOPs" are multiply-adds, here of one image and of one caption of full length. Matrix
products, convolutions and attention are counted. Classes are compared with eight groups, which is
nothing beside the image encoder.
"""

import argparse

import torch
from mmengine.analysis import parameter_count
from mmengine.utils import to_2tuple
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pgseg_mm.cli.arguments import add_settings
from pgseg_mm.cli.processes import refusals
from pgseg_mm.cli.run_configs import find_config, read_with_settings, require_model
from pgseg_mm.engine.preflight import telling


@torch.no_grad()
def count(module: nn.Module, example: Tensor) -> int:
    """Multiply-adds of a module's forward pass."""
    # fused kernels for CPUs are not counted, the products that they consist of are
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(example)
    return counter.get_total_flops() // 2


def flops_table(rows: list[tuple[str, str, int | None, int]]) -> str:
    """Rows of part, input, multiply-adds and parameters, with units."""
    lines = [('part', 'input', 'FLOPs (multiply-adds)', 'parameters')]
    for part, shape, macs, parameters in rows:
        lines.append(
            (
                part,
                shape,
                '' if macs is None else f'{macs / 1e9:.3f} G',
                f'{parameters / 1e6:.3f} M',
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help="side of the image, or height and width; the backbone's img_size by default",
    )
    add_settings(parser)
    args = parser.parse_args()
    args.config = find_config(parser, args.config)
    cfg = read_with_settings(parser, args)
    require_model(parser, cfg)
    register_all_modules()
    shape = args.shape or to_2tuple(cfg.model.backbone.get('img_size', 224))
    if len(shape) > 2 or min(shape) < 1:
        parser.error(f'--shape takes one or two positive numbers, got {shape}')
    height, width = shape if len(shape) == 2 else (shape[0], shape[0])

    for part in ('backbone', 'text_encoder'):
        if (cfg.model.get(part) or {}).get('pretrained'):
            cfg.model[part].pretrained = None  # weights do not matter here

    with refusals(parser), telling('the model cannot be built'):
        model = MODELS.build(cfg.model).eval().requires_grad_(False)
    parameters = parameter_count(model)
    with refusals(parser), telling(f'--shape {height} {width} cannot be counted'):
        image = torch.rand(1, 3, height, width)
        rows = [('backbone', f'image {height} x {width}', count(model.backbone, image))]
    text_encoder = getattr(model, 'text_encoder', None)
    if text_encoder is not None:
        tokens = text_encoder.tokenize(['a photo'])
        rows.append(('text_encoder', f'{tokens.shape[1]} tokens', count(text_encoder, tokens)))
    rows.append(('decode_head', '', None))
    print(
        flops_table(
            [(*row, parameters[row[0]]) for row in rows] + [('all', '', None, parameters[''])]
        )
    )


if __name__ == '__main__':
    main()
