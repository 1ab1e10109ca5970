"""Write a model as ONNX, and check it against PyTorch.

    python tools/deployment/pgseg2onnx.py CONFIG CHECKPOINT --out model.onnx --dynamic

The classes are part of the file: their embeddings come from class_embeds of the config's head, or
from --class-embeds; tools/misc/embed_vocabulary.py writes them.

Input "images": float32 (B, 3, H, W), RGB, minus the mean and over the standard deviation of the
config's data preprocessor; both are in the file's metadata, as are the names of the classes where
they are known. Output "scores": float32 (B, K, H, W), what mmseg's EncoderDecoder gives in
mode='tensor' of test_cfg mode='whole': the score of each pixel's group for each class, or of the
pixel itself, by the head's naming rule, with the background first if the config finds it by
threshold. With --argmax the output is "classes": int64
(B, H, W). Windows of large images are cut and averaged outside of the model, where decision and
pamr of the config's test_cfg are applied, too; the file's metadata have both.
"""

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from pgseg_mm.apis.model import build_with_weights
from pgseg_mm.background import BACKGROUND, has_background
from pgseg_mm.cli.arguments import add_model_options, check_output
from pgseg_mm.cli.checkpoint_sources import SOURCES_OR_NONE
from pgseg_mm.cli.run_configs import read_model_config
from pgseg_mm.errors import RunError
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.numpy_files import read_npz

OPSET = 18
EXTRA = ('onnx', 'onnxruntime', 'onnxscript')
TOLERANCE = 1e-3
MAX_INPUT_PIXELS = 2**24
"""Pixels of an image that is encoded as a whole; 2**24 are 65 thousand patches of 16 pixels."""


class ExportedModel(nn.Module):
    """Images to class scores, or to the best class of each pixel.

    Args:
        model: A PGSeg or another OpenVocabSegmentor, or an EncoderDecoder with one of their heads,
            that knows its classes.
        argmax: Whether to give classes in place of scores.
    """

    def __init__(self, model: nn.Module, argmax: bool = False) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.decode_head = model.decode_head
        self.argmax = argmax

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[2:]
        features = self.backbone(images)
        if not self.argmax or self.decode_head.scores_pixels:
            scores = self.decode_head.predict(features, [{'img_shape': size}], None)
            return scores.argmax(dim=1) if self.argmax else scores
        labels = self.decode_head.classify_groups(features).argmax(dim=-1)
        groups = self.decode_head.assign_pixels(features, size)
        return labels.gather(1, groups.flatten(1)).unflatten(1, size)


def export(module: ExportedModel, size: tuple[int, int], dynamic: bool, metadata: dict) -> Any:
    """Trace the module.

    Args:
        module: What to export.
        size: Height and width of the images, or of the example where they are dynamic.
        dynamic: Whether batch, height and width are free.
        metadata: Texts to keep in the file.

    Returns:
        torch's ONNX program.
    """
    free = torch.export.Dim.DYNAMIC
    # an example with a batch of 1 would fix it
    example = torch.randn(2 if dynamic else 1, 3, *size).to(next(module.parameters()).device)
    exported = torch.export.export(
        module,
        (example,),
        dynamic_shapes=({0: free, 2: free, 3: free},) if dynamic else None,
        strict=False,
    )
    program = torch.onnx.export(
        exported,
        dynamo=True,
        opset_version=OPSET,
        input_names=['images'],
        output_names=['classes' if module.argmax else 'scores'],
        verbose=False,
    )
    program.model.metadata_props.update(metadata)
    return program


@torch.no_grad()
def difference(path: Path, module: ExportedModel, size: tuple[int, int], dynamic: bool) -> float:
    """How far onnxruntime is from PyTorch on images of noise.

    Returns:
        The largest difference of a score, or the share of pixels of another class: the median of
        three images, because in one of them two groups may tie.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    images = torch.randn(3, 3, *size)
    differences = []
    for batch in images[None] if dynamic else images.split(1):
        (out,) = session.run(None, {'images': batch.numpy()})
        found, expected = torch.from_numpy(out), module(batch)
        if found.shape != expected.shape:
            return float('inf')
        if module.argmax:
            differences.append((found != expected).float().flatten(1).mean(dim=1))
        else:
            differences.append((found - expected).abs().flatten(1).amax(dim=1))
    return torch.cat(differences).median().item()


def check_input_size(size: tuple[int, int], patch: int) -> None:
    """Refuse images of a size that the model cannot take, or that no memory has room for.

    Args:
        size: Height and width in pixels.
        patch: Side of a patch in pixels.

    Raises:
        ValueError: If a side is shorter than a patch, or there are too many pixels.
    """
    if min(size) < patch:
        raise ValueError(
            f'--size takes a height and a width of at least {patch} pixels, the side of a patch, '
            f'got {size[0]} x {size[1]}'
        )
    if size[0] * size[1] > MAX_INPUT_PIXELS:
        raise ValueError(
            f'--size {size[0]} x {size[1]} is more than {MAX_INPUT_PIXELS} pixels, which are '
            'encoded at once; cut windows out of larger images'
        )


def default_size(cfg: ConfigDict, backbone: nn.Module) -> tuple[int, int]:
    """Height and width of a window, or else of the images that a backbone was trained on.

    Args:
        cfg: Config of the model.
        backbone: Its backbone.
    """
    window = (cfg.get('test_cfg') or {}).get('crop_size', cfg.backbone.get('img_size'))
    if window is not None:
        return to_2tuple(window)
    grid_size = getattr(backbone, 'grid_size', None)
    return (224, 224) if grid_size is None else tuple(n * backbone.patch_size for n in grid_size)


def onnx_metadata(cfg: ConfigDict, class_embeds: Any, head: nn.Module) -> dict[str, str]:
    """What a user of the file has to know, as JSON."""
    meta: dict[str, Any] = {'with_background': head.with_background}
    if hasattr(head, 'naming'):
        meta['naming'] = head.naming
    rules = cfg.get('test_cfg') or {}
    meta.update({key: rules[key] for key in ('decision', 'pamr') if rules.get(key)})
    preprocessor = cfg.get('data_preprocessor') or {}
    meta.update({key: list(preprocessor[key]) for key in ('mean', 'std') if key in preprocessor})
    if str(class_embeds).endswith('.npz'):
        named = read_npz(class_embeds, ('classes',))
        if 'classes' in named:
            meta['classes'] = channel_names(named['classes'].tolist(), head)
    return {key: json.dumps(value) for key, value in meta.items()}


def channel_names(names: list[str], head: Any) -> list[str]:
    """Names of the channels. A background that has no embedding is the first of them if the head
    has one, and none otherwise, whatever a file lists.

    Raises:
        ValueError: If their number is another one.
    """
    others = names[1:] if has_background(names) else names
    choices = [[BACKGROUND, *others]] if head.with_background else [names, others]
    found = next((choice for choice in choices if len(choice) == head.num_classes), None)
    if found is None:
        raise ValueError(
            f'the file of embeddings names {len(names)} classes, and the model has '
            f'{head.num_classes}; make it anew by tools/misc/embed_vocabulary.py'
        )
    return found


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint', help=f'its weights, those of a text tower are left out: {SOURCES_OR_NONE}'
    )
    parser.add_argument('--out', type=Path, default=Path('model.onnx'))
    parser.add_argument('--class-embeds', help="embeddings in place of the config's class_embeds")
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="size of the images in pixels (default: the window of the config's test_cfg, or the "
        'size that the backbone was trained at)',
    )
    parser.add_argument('--dynamic', action='store_true', help='leave batch, height and width free')
    parser.add_argument('--argmax', action='store_true', help='give classes in place of scores')
    add_model_options(parser)
    return parser, parser.parse_args()


def has_synonyms(head: Any) -> bool:
    """Whether a class has several words."""
    index = getattr(head, 'class_index', None)
    return index is not None and len(index.unique()) < len(index)


def main() -> None:
    parser, args = parse_arguments()
    cfg = read_model_config(parser, args, or_none=True)
    if args.class_embeds is not None:
        cfg.model.decode_head.class_embeds = args.class_embeds
    class_embeds = cfg.model.decode_head.get('class_embeds')
    if class_embeds is None:
        parser.error('no classes: give --class-embeds, as tools/misc/embed_vocabulary.py writes it')
    check_output(parser, args.out)
    if absent := [name for name in EXTRA if find_spec(name) is None]:
        parser.error(f'{", ".join(absent)} not installed; pip install "pgseg-mm[onnx]"')
    try:
        if args.size is not None:
            check_input_size(args.size, cfg.model.backbone.get('patch_size', 1))
    except ValueError as error:
        parser.error(str(error))
    try:
        model = build_with_weights(cfg, args.checkpoint, args.trust, args.allow_partial)
        size = tuple(args.size or default_size(cfg.model, model.backbone))
        check_input_size(size, getattr(model.backbone, 'patch_size', 1))
        metadata = onnx_metadata(cfg.model, class_embeds, model.decode_head)
    except (CheckpointError, FileNotFoundError, RunError, ValueError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    module = ExportedModel(model, args.argmax).eval()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    least = getattr(model.backbone, 'patch_size', 1)
    other = size[1] + 5, max(size[0] // 2 + 11, least)
    sizes = [size, other] if args.dynamic else [size]
    # under its name only once it is right; a large model is several files
    with tempfile.TemporaryDirectory(prefix='.onnx_', dir=args.out.parent) as folder:
        made = Path(folder, args.out.name)
        export(module, size, args.dynamic, metadata).save(made)
        for height, width in sizes:
            found = difference(made, module, (height, width), args.dynamic)
            print(f'{height} x {width}: onnxruntime differs from PyTorch by {found:.1e}')
            if not found <= TOLERANCE:
                sys.exit(
                    f'error: the export differs from PyTorch by more than {TOLERANCE}; '
                    f'{args.out} is not written'
                )
        for file in Path(folder).iterdir():
            file.replace(args.out.with_name(file.name))
    for rule in sorted(metadata.keys() & {'decision', 'pamr'}):
        remedy = 'the classes are those without it' if args.argmax else 'apply it to the scores'
        print(f'test_cfg.{rule} is not part of the file: {remedy}')
    if (cfg.model.get('test_cfg') or {}).get('decision') and has_synonyms(model.decode_head):
        print(
            'its softmax is over words here, and the file has the best word of each class alone: '
            'probabilities come out higher, and prob_threshold means another thing'
        )
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
