"""What matching and the NPR loss add to a training step, and which solver is the fastest.

    python -m benchmarks.npr CONFIG [--batch 1024] [--device cuda --amp]

Three tables: (1) solvers of the assignment, on similarities of one batch as training makes them
(groups near prototypes) and on those of noise, which are harder; (2) the NPR loss of
each grouping stage, forward and backward, as a share of the image encoder's forward and backward
pass; (3) the model's whole training step with NPR as a ratio of the step without. A step that does
not fit in memory is timed in micro-batches (--micro-batch), of which --rounds are run and (2)
scales the time to the batch.
"""

import argparse
import copy
import importlib.util
import json
from collections.abc import Callable
from functools import partial

import torch
from mmengine.config import Config, DictAction
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from prettytable import PrettyTable
from scipy.optimize import linear_sum_assignment

import pgseg_mm  # noqa: F401, registers the components
from pgseg_mm.models.losses import NPRLoss, match_prototypes
from pgseg_mm.text import tokenize

from .outputs import make_parser, origin, parse, write_results
from .timing import Stopwatch


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config whose model is timed, with random weights')
    parser.add_argument('--batch', type=int, default=1024, help='images (default: %(default)s)')
    parser.add_argument(
        '--micro-batch', type=int, help='images of a timed step; the whole batch by default'
    )
    parser.add_argument('--rounds', type=int, default=5, help='repetitions (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.add_argument('--amp', action='store_true', help='run the model in bf16')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override the config')
    args = parse(parser, argv)
    args.micro_batch = min(args.micro_batch or args.batch, args.batch)
    return args


def solvers(similarity: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Ways to match (B, G, G) similarities; those that are not installed are named and left out."""
    costs = similarity.detach().float().cpu().numpy()
    calls: dict[str, Callable[[], object]] = {
        'scipy, one thread': lambda: [linear_sum_assignment(c, maximize=True)[1] for c in costs],
        'scipy in threads (match_prototypes)': lambda: match_prototypes(similarity),
    }
    if importlib.util.find_spec('lap'):
        import lap

        calls['lapx, lapjv'] = lambda: [lap.lapjv(-c)[1] for c in costs]
        calls['lapx, lapjvx_batch in threads'] = lambda: lap.lapjvx_batch(-costs, n_threads=0)
    else:
        print('lapx is not installed and left out')
    if importlib.util.find_spec('torch_linear_assignment'):
        from torch_linear_assignment import batch_linear_assignment

        calls['torch-linear-assignment'] = lambda: batch_linear_assignment(-similarity.detach())
    else:
        print('torch-linear-assignment is not installed and left out')
    return calls


def npr_step(loss: NPRLoss, groups: torch.Tensor, prototypes: torch.Tensor) -> None:
    groups = groups.detach().requires_grad_()
    loss(None, groups, prototypes).backward()


def npr_steps(
    cfg: Config, images: torch.Tensor, amp: bool
) -> tuple[torch.nn.Module, dict[str, Callable[[], object]]]:
    """Forward and backward pass of the encoder, of the model, and of the model without NPR."""
    text = 'a photo of a red car beside an old brick house and two tall trees'
    tokens = tokenize([text] * len(images), cfg.model.text_encoder.context_length)[:, :24]
    tokens = tokens.to(images.device)
    without = copy.deepcopy(cfg.model)
    without.decode_head.update(loss_npr=None, text_prototypes=None)
    models = {
        name: MODELS.build(model_cfg).train().to(images.device)
        for name, model_cfg in (('with', cfg.model), ('without', without))
    }

    def autocast() -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=amp)

    def encoder() -> None:
        with autocast():
            out = models['with'].backbone(images)
        out.tokens.float().square().mean().backward()

    def step(name: str) -> None:
        with autocast():
            losses = models[name](images, tokens=tokens, mode='loss')
        models[name].parse_losses(losses)[0].backward()

    return models['with'], {
        'encoder': encoder,
        'step without NPR': lambda: step('without'),
        'step with NPR': lambda: step('with'),
    }


def npr_inputs(
    model: torch.nn.Module, images: torch.Tensor, batch: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Groups and prototypes (batch, G, C) of each stage: noisy prototypes in another order.

    That is what a trained encoder hands over, roughly; noise alone is harder to match.
    """
    with torch.no_grad():
        stages = model.backbone(images[:1]).prototypes
    inputs = []
    for stage in stages:
        prototypes = stage + 0.3 * torch.randn(batch, *stage.shape[1:], device=stage.device)
        order = torch.rand(prototypes.shape[:2], device=stage.device).argsort(dim=1)
        groups = prototypes.gather(1, order[..., None].expand_as(prototypes))
        inputs.append((groups + 0.5 * torch.randn_like(groups), prototypes))
    return inputs


def print_table(title: str, first: str, watch: Stopwatch, names: list[str], total: float) -> None:
    table = PrettyTable([first, 'median s', 'range s', '%'], align='l')
    for name in names:
        median = watch.median(name)
        share = f'{100 * median / total:.2f}' if total else ''
        table.add_row([name, f'{median:.4f}', watch.spread(name), share])
    print(f'{title}\n{table}')


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if cfg.model.decode_head.get('loss_npr') is None:
        raise SystemExit(f'{args.config} has no loss_npr: there is nothing to measure')
    register_all_modules()
    torch.manual_seed(0)
    images = torch.randn(args.micro_batch, 3, *[cfg.model.backbone.img_size] * 2).to(args.device)
    model, steps = npr_steps(cfg, images, args.amp)
    inputs = npr_inputs(model, images, args.batch)
    first_stage = model.decode_head.loss_npr.start(*inputs[0]).similarity
    noise = [torch.nn.functional.normalize(torch.randn_like(x), dim=-1) for x in inputs[0]]
    solving = {
        f'{solver}; {kind}': call
        for kind, similarity in (
            ('near', first_stage.detach()),
            ('noise', noise[0] @ noise[1].transpose(1, 2)),
        )
        for solver, call in solvers(similarity).items()
    }
    losses = {
        f'NPR, {groups.shape[1]} groups': partial(npr_step, model.decode_head.loss_npr, *pair)
        for pair in inputs
        for groups in pair[:1]
    }
    watch = Stopwatch[str](args.device)
    for calls in (solving, losses, steps):
        watch.run(calls, args.rounds)

    size = ' x '.join(map(str, first_stage.shape[1:]))
    print_table(f'(1) solve {args.batch} times {size}', 'solver', watch, list(solving), 0)
    encoder = watch.median('encoder') * args.batch / args.micro_batch
    title = f'(2) % of the encoder, which takes {encoder:.3f} s for {args.batch} images'
    print_table(title, 'loss, forward and backward', watch, list(losses), encoder)
    title = f'(3) % of the step without NPR, {args.micro_batch} images at a time'
    plain = watch.median('step without NPR')
    print_table(title, 'training step', watch, list(steps), plain)
    result = {'batch': args.batch, 'micro_batch': args.micro_batch, **origin('npr', 'scipy')}
    print(json.dumps(result))
    write_results(args, {**result, 'seconds': watch.seconds})


if __name__ == '__main__':
    main()
