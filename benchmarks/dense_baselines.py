"""What naming patches adds to a CLIP's encoder, for the training-free baselines of configs/clip.

    python -m benchmarks.dense_baselines --markdown docs/benchmarks/dense_baselines.md

One image, random weights and random embeddings of classes. Each method is measured turn about with
its bare encoder: the same windows through the same backbone in the same batches, and nothing else.
What follows the encoder is measured alone as well, by how scores become classes, and so are
prototypes in place of patches. Peak memory is that of a fresh process with more classes and pixels;
refinement holds one class at a time there, so that few classes tell what many would take.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

import pgseg_mm  # noqa: F401, registers the components
from pgseg_mm.cli.provenance import describe
from pgseg_mm.models import OpenVocabSegmentor, PrototypeRefinement
from pgseg_mm.models.inference.pamr import PAMR
from pgseg_mm.models.inference.window_scores import encode_windows
from pgseg_mm.models.segmentors.checks import WINDOW_BATCH

from .outputs import make_parser, origin, parse, write_results
from .timing import (
    MIB,
    Stopwatch,
    can_measure_memory,
    check_rounds,
    in_fresh_process,
    peak,
    ratio,
    reset_peak,
    show_ratio,
)

CONFIGS = Path(__file__).parents[1] / 'configs' / 'clip'
METHODS = ('clip', 'maskclip', 'sclip', 'clearclip', 'naclip')
OPERATIONS = 2
"""Of a neighbour's weight and score: a product and a sum."""
REFINED = PAMR()
RULES: dict[str, dict[str, Any]] = {
    'largest score': {},
    'decision without threshold': {'decision': {'logit_scale': 40.0}},
    'decision with threshold': {'decision': {'logit_scale': 40.0, 'prob_threshold': 0.1}},
    'decision with threshold and area': {
        'decision': {'logit_scale': 40.0, 'prob_threshold': 0.1, 'area_threshold': 0.02}
    },
    'largest score, PAMR': {'pamr': asdict(REFINED)},
}
"""Settings of ``test_cfg`` by what they are called here."""
PROTOTYPES = 'prototypes in place of patches'
MEMORY_RULES = {
    'largest score': RULES['largest score'],
    'decision with threshold': RULES['decision with threshold'],
    'largest score, PAMR': {'pamr': {'num_iters': 1, 'dilations': REFINED.dilations}},
}
MAX_REFINED_CLASSES = 16
"""Classes whose refinement is run for its memory; one is held at a time."""


@dataclass(frozen=True)
class BaselineSettings:
    """What is measured; sizes are (height, width) in pixels."""

    tower: str
    size: tuple[int, int]
    num_classes: int
    memory_size: tuple[int, int]
    memory_classes: int
    threads: int
    device: str


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, 'write the page here')
    size: dict[str, Any] = {'type': int, 'nargs': 2, 'metavar': ('HEIGHT', 'WIDTH')}
    parser.add_argument(
        '--tower', default='ViT-B-16-quickgelu', help="open_clip's name (default: %(default)s)"
    )
    parser.add_argument(
        '--methods', nargs='+', choices=METHODS, default=METHODS, help='default: all'
    )
    parser.add_argument('--size', **size, default=(448, 597), help='image (default: %(default)s)')
    parser.add_argument('--num-classes', type=int, default=171, help='default: %(default)s')
    parser.add_argument(
        '--memory-size', **size, default=(3000, 4000), help='output, for memory alone (%(default)s)'
    )
    parser.add_argument(
        '--memory-classes', type=int, default=919, help='likewise (default: %(default)s)'
    )
    parser.add_argument('--rounds', type=int, default=3, help='rounds (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--no-memory', action='store_true', help='leave out peak memory')
    return parser


def build_models(
    methods: tuple[str, ...], settings: BaselineSettings
) -> dict[str, OpenVocabSegmentor]:
    """Models of the methods, which share random weights, with random embeddings of classes."""
    init_default_scope('mmseg')
    models: dict[str, OpenVocabSegmentor] = {}
    for method in methods:
        cfg = Config.fromfile(CONFIGS / f'{method}_vit-base-p16.py').model
        start = {'model_name': settings.tower, 'pretrained': None}
        if not models:
            torch.manual_seed(0)
            cfg.update(class_embed_cache=None, templates='simple')
            cfg.text_encoder.update(start)
            cfg.backbone.update(start)
            backbone = MODELS.build(cfg.backbone)
            cfg.decode_head.in_channels = backbone.embed_dims
            model = MODELS.build(cfg)
        else:
            first = next(iter(models.values()))
            model = copy.copy(first)
            model._modules = dict(first._modules)  # a copy shares it, and gets another backbone
            backbone = MODELS.build({**cfg.backbone, **start})
            backbone.tower = first.backbone.tower
            model.backbone = backbone
        models[method] = model.eval().to(settings.device)
    return models


def set_classes(model: OpenVocabSegmentor, number: int) -> None:
    """Have a model tell apart classes of random embeddings."""
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(number, model.decode_head.channels, generator=generator)
    model.decode_head.set_class_embeds(embeds.to(next(model.parameters()).device))


def make_image(settings: BaselineSettings) -> Tensor:
    """Noise (1, 3, height, width), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *settings.size, generator=generator).to(settings.device)


def encode(model: OpenVocabSegmentor, image: Tensor) -> list[Tensor]:
    """Maps of an image's windows, in the batches of a prediction."""
    windows = [model.windows((image.shape[2], image.shape[3]))]
    chunks = encode_windows(model.extract_feat, [image[0]], windows, WINDOW_BATCH)
    return [chunk.features[0] for chunk in chunks]


def with_rule(model: OpenVocabSegmentor, rule: dict[str, Any]) -> OpenVocabSegmentor:
    """The same model with other settings of ``test_cfg``."""
    other = copy.copy(model)
    other.test_cfg = {**model.test_cfg, **rule}
    return other


@torch.inference_mode()
def measure_methods(
    models: dict[str, OpenVocabSegmentor], image: Tensor, rounds: int
) -> list[dict[str, Any]]:
    """Seconds of each method's encoder and prediction, and their ratio."""
    watch = Stopwatch[tuple[str, str]](image.device)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for method, model in models.items():
        calls[method, 'encoder'] = partial(encode, model, image)
        calls[method, 'predict'] = partial(model.predict, image)
    watch.run(calls, rounds)
    return [
        {
            'method': method,
            'encoder_seconds': watch.seconds[method, 'encoder'],
            'predict_seconds': watch.seconds[method, 'predict'],
            'times_encoder': ratio(
                watch.seconds[method, 'predict'], watch.seconds[method, 'encoder']
            ),
        }
        for method in models
    ]


@torch.inference_mode()
def measure_rules(model: OpenVocabSegmentor, image: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Seconds of what follows the encoder, by how scores become classes."""
    calls: dict[str, Callable[[], object]] = {}
    guided = with_rule(model, {'pamr': asdict(REFINED)})  # scores with their image
    scores = guided.segment(image, [SegDataSample()])
    for name, rule in RULES.items():
        calls[name] = partial(with_rule(model, rule).fill_sample, SegDataSample(), scores)
    features, refine = encode(model, image), PrototypeRefinement()
    calls[PROTOTYPES] = lambda: [refine(maps) for maps in features]
    height, width = image.shape[2:]
    one = torch.rand(1, height, width, device=image.device)
    weight, out = torch.rand_like(one), torch.zeros_like(one)
    calls['a weighted sum of two maps'] = lambda: out.addcmul_(weight, one)
    watch = Stopwatch[str](image.device)
    watch.run(calls, rounds)
    return [{'name': name, 'seconds': times} for name, times in watch.seconds.items()]


def pamr_sums(num_classes: int) -> int:
    """Weighted sums of two maps that the refinement of all classes takes."""
    return num_classes * REFINED.num_iters * 8 * len(REFINED.dilations)


def measure_memory(settings: BaselineSettings, name: str) -> dict[str, Any]:
    """Peak memory of one prediction, to be run in a process of its own."""
    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    (model,) = build_models(('naclip',), settings).values()
    rule = MEMORY_RULES[name]
    number = settings.memory_classes
    if 'pamr' in rule:
        number = min(number, MAX_REFINED_CLASSES)
    set_classes(model, number)
    image = make_image(settings)
    sample = SegDataSample(metainfo={'ori_shape': settings.memory_size})
    before = reset_peak(device)
    with torch.inference_mode():
        with_rule(model, rule).predict(image, [sample])
    return {
        'name': name,
        'num_classes': number,
        'peak_mib': peak(device) / MIB,
        'before_mib': before / MIB,
    }


def report(result: dict[str, Any]) -> str:
    """The page with its tables and how they were made."""
    settings = result['settings']
    height, width = settings['size']
    lines = [
        '# Training-free baselines on CLIP',
        '',
        f'What naming patches adds to a {settings["tower"]} with random weights: one image of '
        f'{height} x {width} (height x width), {settings["num_classes"]} classes, windows of '
        f'224 px, 112 px apart, {result["rounds"]} rounds. Device: {settings["device"]}, threads: '
        f'{settings["threads"]}. Times are medians; ratios are medians of those within a round, '
        'with their middle half in brackets. "Encoder" is the backbone of the method on the same '
        'windows in the same batches, and nothing else.',
        '',
        *_method_table(result['methods']),
        '',
        *_rule_table(result['rules'], result['methods'][-1], settings),
    ]
    if result['memory']:
        lines += ['', *_memory_table(result['memory'], settings)]
    return '\n'.join([*lines, '', *describe(result), ''])


def _method_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        '| method | encoder, s | predict, s | predict / encoder |',
        '| --- | --: | --: | --: |',
    ]
    for row in rows:
        encoder, predict = (
            statistics.median(row[f'{task}_seconds']) for task in ('encoder', 'predict')
        )
        lines.append(
            f'| {row["method"]} | {encoder:.3f} | {predict:.3f} '
            f'| {show_ratio(row["times_encoder"])} |'
        )
    return lines


def _rule_table(
    rows: list[dict[str, Any]], method: dict[str, Any], settings: dict[str, Any]
) -> list[str]:
    seconds = {row['name']: statistics.median(row['seconds']) for row in rows}
    encoder = statistics.median(method['encoder_seconds'])
    one = seconds.pop('a weighted sum of two maps')
    sums = pamr_sums(settings['num_classes'])
    pixels = settings['size'][0] * settings['size'][1]
    operations = OPERATIONS * sums * pixels
    refined = seconds['largest score, PAMR'] - seconds['largest score']
    lines = [
        f'After the encoder, which takes {encoder:.3f} s for {method["method"]}:',
        '',
        '| | s | share of the encoder |',
        '| --- | --: | --: |',
        *(f'| {name} | {value:.4f} | {value / encoder:.1%} |' for name, value in seconds.items()),
        '',
        f'PAMR adds {refined:.2f} s. Its arithmetic is {REFINED.num_iters} rounds of '
        f'{8 * len(REFINED.dilations)} weighted neighbours for each class and pixel: '
        f'{operations / 1e9:.1f} GFLOP, as {sums} weighted sums of two maps of {pixels} pixels. '
        f'One of them takes {one * 1e3:.3f} ms, all of them {sums * one:.2f} s, so PAMR takes '
        f'{refined / (sums * one):.2f} times its arithmetic.',
    ]
    return lines


def _memory_table(rows: list[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    height, width = settings['memory_size']
    whole = 'peak of the process' if settings['device'] == 'cpu' else 'peak allocated'
    return [
        f'Memory with an output of {height} x {width} pixels. PAMR holds one class at a time at '
        f'this size, and is run once over {MAX_REFINED_CLASSES} classes.',
        '',
        f'| | classes | {whole}, MiB | before, with the model, MiB |',
        '| --- | --: | --: | --: |',
        *(
            f'| {row["name"]} | {row["num_classes"]} | {row["peak_mib"]:.0f} '
            f'| {row["before_mib"]:.0f} |'
            for row in rows
        ),
    ]


def main() -> None:
    parser = build_parser()
    args = parse(parser)
    check_rounds(parser, '--rounds', args.rounds)
    torch.set_num_threads(args.threads)
    settings = BaselineSettings(
        args.tower,
        tuple(args.size),
        args.num_classes,
        tuple(args.memory_size),
        args.memory_classes,
        args.threads,
        args.device,
    )
    models = build_models(tuple(args.methods), settings)
    last = models[args.methods[-1]]
    set_classes(last, args.num_classes)  # all share their head
    image = make_image(settings)
    methods = measure_methods(models, image, args.rounds)
    rules = measure_rules(last, image, args.rounds)
    del models, last
    memory = []
    if not args.no_memory and can_measure_memory(torch.device(args.device)):
        memory = [in_fresh_process(measure_memory, settings, name) for name in MEMORY_RULES]
    result = {
        **origin('dense_baselines', 'open_clip_torch'),
        'settings': asdict(settings),
        'rounds': args.rounds,
        'methods': methods,
        'rules': rules,
        'memory': memory,
    }
    text = report(result)
    print(text)
    write_results(args, result, text)


if __name__ == '__main__':
    main()
