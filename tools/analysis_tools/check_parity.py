"""Compare this project's models with numbers that public reference code produced.

Each file names a size and seeds. Weights and images follow from the seeds (parity_rules.py), the
weights of the authors' release go through the converter, and every number in the file is computed
again: in float64 on the CPU, or as --device and --dtype say (float32 on a GPU without TF32).
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.utils import to_2tuple
from torch import Tensor

import clip_parity_features
import clip_parity_postprocess
import clip_parity_segment
import parity_rules
from parity_maps import ClassMap, Given
from pgseg_mm.checkpoints import release_shapes, release_to_mm
from pgseg_mm.checkpoints.release_config import architecture_of_release_config
from pgseg_mm.cli.arguments import find_device
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.numpy_files import read_npz

EXPECTED_META = {
    'config',
    'weight_seed',
    'image_seed',
    'image_shape',
    'token_seed',
    'num_texts',
    'eot_id',
    'num_classes',
    'class_seed',
    'crop',
    'stride',
    'bg_thresh',
}
MAX_SHARE_OF_TIES = 1e-4
"""Entries of a class map that may differ, and only where the model's own scores tie."""
TIES = {torch.float64: 1e-6, torch.float32: 1e-5}
"""Lead of a score that counts as none, by the precision it is computed in."""
UNIT_LENGTH_TOLERANCE = 1e-6


class Comparison(NamedTuple):
    """Result for one key of a file."""

    key: str
    difference: float
    """Largest absolute difference; for maps, the number of entries that differ."""
    passed: bool
    remark: str = ''


class ReleaseModel:
    """Our model with the weights that a file's meta names, and what it computes for each key.

    Args:
        meta: The file's meta.
        class_embeds: (K, D), the classes of its class maps, if it has any.
        device: Where to compute.
        dtype: What to compute in, ``torch.float64`` or ``torch.float32``.

    Raises:
        CheckpointError: If something in ``meta`` is missing or not understood.
    """

    def __init__(
        self,
        meta: dict[str, Any],
        class_embeds: np.ndarray | None,
        device: str = 'cpu',
        dtype: torch.dtype = torch.float64,
    ) -> None:
        unknown = meta.keys() - EXPECTED_META
        if unknown:
            raise CheckpointError(f'meta has keys that are not understood: {sorted(unknown)}')
        self.meta = meta
        self.class_embeds = class_embeds
        self.place = {'device': torch.device(device), 'dtype': dtype}
        self.architecture = architecture_of_release_config(self.get('config'))
        self.train_size = self.get('config').get('img_encoder', {}).get('img_size', 224)
        self.model = self._build()
        image = parity_rules.image(
            self.get('image_seed'), tuple(self.get('image_shape')), self.train_size // 4
        )
        self.images = torch.from_numpy(image).to(**self.place)
        self._features: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """A value of the file's meta."""
        if key not in self.meta:
            raise CheckpointError(f'meta has no {key}, which is needed')
        return self.meta[key]

    def _build(self):
        seed = self.get('weight_seed')
        weights = {
            name: torch.from_numpy(np.asarray(parity_rules.weight(name, shape, seed)))
            for name, shape in release_shapes(self.architecture).items()
        }
        conversion = release_to_mm(weights, architecture=self.architecture)
        if not conversion.report.complete:
            raise RuntimeError(f'the converter does not fit the model:\n{conversion.report}')
        model = self.architecture.build().double()
        model.load_state_dict(conversion.state_dict)
        model.to(**self.place)
        return model.eval()

    def compute(self, key: str) -> Tensor | ClassMap | None:
        """What the file should hold under ``key``; ``None`` if the key is unknown."""
        if match := re.fullmatch(r'(train_res|eval_res)/(\w+?)(?:_(\d+))?', key):
            return self._image_value(match[1], match[2], match[3])
        if match := re.fullmatch(r'seg/(whole|slide)_bg([01])', key):
            return self._class_map(match[1], match[2] == '1')
        if match := re.fullmatch(r'seg/(whole|slide)_logits_bg([01])_s8', key):
            return self._segment(match[1], match[2] == '1').seg_logits.data[None, :, 3::8, 3::8]
        head = self.model.decode_head
        if key == 'text_eot':
            return self._text()
        if key == 'text_embed':
            return head.text_projector(self._text())
        if key == 'loss_contrastive':
            images = self._image_value('eval_res', 'image_embed', None)
            texts = head.text_projector(self._text()[: len(images)])
            return head.loss_contrastive(images, texts)
        return None

    def _crop(self, resolution: str) -> Tensor:
        size = self.train_size
        return self.images[:, :, :size, :size] if resolution == 'train_res' else self.images

    def _image_value(self, resolution: str, name: str, stage: str | None) -> Tensor | None:
        if resolution not in self._features:
            self._features[resolution] = self.model.backbone(self._crop(resolution))
        out = self._features[resolution]
        project = self.model.decode_head.image_projector
        if stage is None:
            values: dict[str, Callable[[], Tensor]] = {
                'group_tokens': lambda: out.tokens,
                'pooled': lambda: out.tokens.mean(1),
                'image_embed': lambda: project(out.tokens.mean(1)),
                'group_embed': lambda: project(out.tokens),
            }
            return values[name]() if name in values else None
        staged = {
            'assign_soft': out.assignments,
            'assign_argmax': out.assignments,
            'prototypes': out.prototypes,
        }
        known = staged.get(name, ())
        return known[int(stage)] if int(stage) < len(known) else None

    def _text(self) -> Tensor:
        tokens = parity_rules.tokens(
            self.get('token_seed'),
            self.get('num_texts'),
            self.architecture.context_length,
            self.get('eot_id'),
        )
        return self.model.text_encoder(torch.from_numpy(tokens).to(self.place['device'])).eot

    def _prepare(self, mode: str, background: bool) -> Tensor:
        """Set up inference; returns the first image as the mode takes it."""
        if self.class_embeds is None:
            raise CheckpointError('the file has class maps, but no class_embed')
        if len(self.class_embeds) != self.get('num_classes'):
            raise CheckpointError(
                f'class_embed has {len(self.class_embeds)} rows, meta num_classes '
                f'{self.get("num_classes")}'
            )
        self.model.test_cfg = {'mode': mode, 'seg_logits': True}
        if mode == 'slide':
            self.model.test_cfg |= {
                'crop_size': to_2tuple(self.get('crop')),
                'stride': to_2tuple(self.get('stride')),
            }
        head = self.model.decode_head
        head.set_background_threshold(self.get('bg_thresh') if background else None)
        head.set_class_embeds(torch.from_numpy(self.class_embeds).to(**self.place))
        return self._crop('train_res' if mode == 'whole' else 'eval_res')[:1]

    def _segment(self, mode: str, background: bool):
        return self.model.predict(self._prepare(mode, background))[0]

    def _class_map(self, mode: str, background: bool) -> ClassMap:
        result = self._segment(mode, background)
        labels, scores = result.pred_sem_seg.data, result.seg_logits.data

        def gaps(other: Tensor) -> Tensor:
            legal = other.clamp(0, len(scores) - 1)
            gap = scores.gather(0, labels) - scores.gather(0, legal)
            gap = gap.masked_fill(other != legal, float('inf'))
            return torch.minimum(gap, self._group_gaps(mode, background)[None])

        return ClassMap(labels, gaps)

    def _group_gaps(self, mode: str, background: bool) -> Tensor:
        """(H, W), how far a pixel's best group is ahead of its second one in any window."""
        image = self._prepare(mode, background)[0]
        least = torch.full_like(image[0], float('inf'))
        if self.architecture.num_output_groups[-1] == 1:
            return least
        for window in self.model.windows((image.shape[1], image.shape[2])):
            rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
            features = self.model.extract_feat(image[None, :, rows, columns])
            soft = F.interpolate(features.patch_assignment(), window.size, mode='bilinear')
            best = soft[0].topk(2, dim=0).values
            least[rows, columns] = torch.minimum(least[rows, columns], best[0] - best[1])
        return least


def compare(key: str, stored: np.ndarray, model: Any, tolerance: float) -> Comparison:
    """Compare one stored array with what a model, such as :class:`ReleaseModel`, computes."""
    if key == 'class_embed':  # given, not computed; it also acts on every class map
        off = float(np.abs(np.linalg.norm(stored.astype(float), axis=-1) - 1).max())
        return Comparison(key, off, off <= UNIT_LENGTH_TOLERANCE, 'given; off unit length')
    value = model.compute(key)
    if value is None:
        return Comparison(key, float('nan'), False, 'unknown key: not compared')
    tie = TIES[model.place['dtype']]
    if isinstance(value, Given):
        passed = bool(np.isin(stored, value.known.numpy()).all())
        return Comparison(key, 0, passed, 'given')
    if isinstance(value, ClassMap):
        return compare_map(key, stored, value.labels, value.gaps, MAX_SHARE_OF_TIES, tie)
    if '/assign_argmax_' in key:
        best, labels = value.max(dim=1)

        def gaps(other: Tensor) -> Tensor:
            legal = other.clamp(0, value.shape[1] - 1)
            gap = best - value.gather(1, legal[:, None])[:, 0]
            return gap.masked_fill(other != legal, float('inf'))

        return compare_map(key, stored, labels, gaps, 1.0, tie)
    ours = value.cpu().numpy()
    if stored.shape != ours.shape or not stored.size:
        return Comparison(key, float('nan'), False, f'shape {stored.shape}, expected {ours.shape}')
    difference = float(np.abs(stored - ours).max())
    return Comparison(key, difference, difference <= tolerance)  # NaN does not pass


def compare_map(
    key: str,
    stored: np.ndarray,
    labels: Tensor,
    gaps: Callable[[Tensor], Tensor],
    max_share: float,
    tie: float,
) -> Comparison:
    """Compare label maps, where few labels may differ, and only by a tie."""
    if stored.shape != tuple(labels.shape) or not stored.size:
        shape = tuple(labels.shape)
        return Comparison(key, float('nan'), False, f'shape {stored.shape}, expected {shape}')
    integers = stored.astype(np.int64)
    other = torch.from_numpy(integers).to(labels.device)
    different = (other != labels) | torch.from_numpy(stored != integers).to(labels.device)
    count = int(different.sum())
    share = f'{100 * (1 - count / stored.size):.4f} % equal'
    if not count:
        return Comparison(key, 0, True, share)
    ties = bool((gaps(other)[different] <= tie).all())
    passed = ties and count <= max_share * stored.size
    return Comparison(key, count, passed, share + (', the others tie' if ties else ', no tie'))


@torch.no_grad()
def check_file(
    path: str | Path,
    tolerance: float = 1e-4,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float64,
) -> list[Comparison]:
    """Compare every key of a file.

    Args:
        path: File in the format that the module's docstring tells.
        tolerance: Largest absolute difference of values.
        device: Where to compute.
        dtype: What to compute in, ``torch.float64`` or ``torch.float32``.

    Returns:
        A result for each key but ``meta``.

    Raises:
        CheckpointError: If the file cannot be read, or its meta is not understood.
    """
    arrays, meta = _load(path)
    try:
        model = (
            clip_parity_features.model_of(meta, arrays, device, dtype)
            or clip_parity_postprocess.model_of(meta, arrays, device, dtype)
            or clip_parity_segment.model_of(meta, device, dtype)
            or ReleaseModel(meta, arrays.get('class_embed'), device, dtype)
        )
        return [compare(key, stored, model, tolerance) for key, stored in arrays.items()]
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{path} cannot be computed again: {type(error).__name__}: {error}'
        ) from error


def _load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        arrays = read_npz(path)
    except FileNotFoundError as error:
        raise CheckpointError(f'{path} does not exist') from error
    if 'release_match' in arrays:
        raise CheckpointError(
            f'{path} is about the NPR loss alone, in another format; '
            'tests/test_models/test_losses compare it'
        )
    if 'meta' not in arrays:
        raise CheckpointError(f'{path} has no meta, which names the seeds; it is no parity file')
    try:
        meta = json.loads(str(arrays.pop('meta')))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path}: meta is no JSON: {error}') from error
    if not isinstance(meta, dict) or not arrays:
        raise CheckpointError(f'{path}: meta must be a JSON object, and there must be numbers')
    wrong = [name for name, array in arrays.items() if array.dtype.kind not in 'biuf']
    if wrong:
        raise CheckpointError(f'{path}: {wrong} are no numbers')
    return arrays, meta


def comparison_table(comparisons: list[Comparison]) -> str:
    """Results as a table of text."""
    width = max(len(c.key) for c in comparisons)
    lines = [f'{"key":{width}}  {"difference":>10}']
    for c in comparisons:
        verdict = 'ok' if c.passed else 'FAILED'
        lines.append(f'{c.key:{width}}  {c.difference:10.2e}  {verdict:6}  {c.remark}'.rstrip())
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 if every number agrees, 1 if one does not, 2 if a file cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('files', nargs='+', metavar='FILE.npz')
    parser.add_argument(
        '--tolerance', type=float, default=1e-4, help='largest absolute difference of values'
    )
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    parser.add_argument(
        '--dtype', choices=['float64', 'float32'], default='float64', help='default: %(default)s'
    )
    args = parser.parse_args(argv)
    args.device = find_device(parser, args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    status = 0
    for path in args.files:
        try:
            comparisons = check_file(path, args.tolerance, args.device, getattr(torch, args.dtype))
        except CheckpointError as error:
            print(f'error: {error}', file=sys.stderr)
            status = 2
            continue
        print(f'{path}\n{comparison_table(comparisons)}')
        failed = sum(not c.passed for c in comparisons)
        print(f'{len(comparisons) - failed} of {len(comparisons)} keys agree\n')
        status = max(status, int(failed > 0))
    return status


if __name__ == '__main__':
    sys.exit(main())
