"""What micro-batches save in memory, cost in time, and change in the gradient.

    python -m benchmarks.micro_batches CONFIG [--batch 64 --sizes 32 16 8]

Each row is a training step, forward and backward, of the same model and batch in a fresh process:
whole, in micro-batches (model.train_cfg.micro_batch_size), and whole with activation checkpointing
of every block (model.backbone.with_cp). Noise (Gumbel, drop path) is off, so that gradients can be
compared; their deviation is that of all parameters together, relative to the whole batch's.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from prettytable import PrettyTable

import pgseg_mm  # noqa: F401, registers the components
from pgseg_mm.text import tokenize

from .outputs import make_parser, origin, parse, write_results
from .timing import MIB, in_fresh_process, peak, reset_peak

CAPTION = 'a photo of a red car beside an old brick house, number {}'


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config whose model is measured, with random weights')
    parser.add_argument('--batch', type=int, default=64, help='images (default: %(default)s)')
    parser.add_argument('--sizes', type=int, nargs='+', default=[32, 16, 8], help='micro-batches')
    parser.add_argument('--rounds', type=int, default=3, help='timed steps (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.add_argument('--amp', action='store_true', help='run the model in bf16')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override the config')
    return parse(parser)


def build(args: argparse.Namespace, size: int | None, with_cp: bool) -> torch.nn.Module:
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    cfg.model.backbone.update(gumbel=False, drop_path_rate=0.0, with_cp=with_cp)
    cfg.model.text_encoder.update(with_cp=with_cp)
    cfg.model.train_cfg = {'micro_batch_size': size}
    torch.manual_seed(0)
    return MODELS.build(cfg.model).train().to(args.device)


def measure(
    args: argparse.Namespace, size: int | None, with_cp: bool, gradient: str
) -> dict[str, Any]:
    """A row of the table; to be run in a process of its own. The gradient goes to a file."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    reset_peak(device)  # else it is at least what the parent had
    model = build(args, size, with_cp)
    generator = torch.Generator().manual_seed(0)
    side = model.backbone.grid_size[0] * model.backbone.patch_size
    images = torch.randn(args.batch, 3, side, side, generator=generator).to(args.device)
    captions = [CAPTION.format(i) for i in range(args.batch)]
    tokens = tokenize(captions, model.text_encoder.context_length)[:, :24].to(args.device)
    cuda = args.device.startswith('cuda')
    seconds = []
    for i in range(args.rounds + 1):
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.amp):
            losses = model(images, tokens=tokens, mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if i == 0:  # of the same weights and state for all rows
            value = loss.item()
            flat = torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
            torch.save(flat, gradient)
            del flat
    return {'seconds': seconds[1:], 'peak_mib': peak(device) / MIB, 'loss': value}


def main() -> None:
    args = parse_args()
    rows: dict[str, dict[str, Any]] = {}
    cases: list[tuple[str, int | None, bool]] = [
        ('whole', None, False),
        *((f'micro-batches of {size}', size, False) for size in args.sizes),
        ('whole, checkpointed blocks', None, True),
    ]
    with tempfile.TemporaryDirectory() as folder:
        reference = None
        for i, (name, size, with_cp) in enumerate(cases):
            path = str(Path(folder) / f'{i}.pt')
            rows[name] = in_fresh_process(measure, args, size, with_cp, path)
            gradient = torch.load(path, weights_only=True)
            reference = gradient if reference is None else reference
            deviation = (gradient - reference).norm() / reference.norm()
            rows[name]['gradient_deviation'] = deviation.item()
    whole = statistics.median(rows['whole']['seconds'])
    table = PrettyTable(
        [
            'step of ' + str(args.batch),
            'median s',
            '× whole',
            'peak MiB',
            'loss',
            'gradient off by',
        ],
        align='r',
    )
    for name, row in rows.items():
        median = statistics.median(row['seconds'])
        table.add_row(
            [
                name,
                f'{median:.2f}',
                f'{median / whole:.2f}',
                f'{row["peak_mib"]:.0f}',
                f'{row["loss"]:.6f}',
                f'{row["gradient_deviation"]:.1e}',
            ]
        )
    print(table)
    write_results(args, {**origin('micro_batches'), 'rows': rows})


if __name__ == '__main__':
    main()
