"""Values of the parity files on what follows dense CLIP features: refinement, and scores to maps.

Images and scores follow from the seeds in a file's meta; no weights are involved.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.utils import to_2tuple
from torch import Tensor

import parity_rules
from parity_maps import ClassMap, Given, map_of, map_without_ties
from pgseg_mm.models.inference.decision import Decision, decide, probabilities
from pgseg_mm.models.inference.dense_scores import DenseScores, join_windows, padding_of
from pgseg_mm.models.inference.pamr import PAMR, local_deviation
from pgseg_mm.models.inference.score_pieces import ScorePieces
from pgseg_mm.models.inference.sliding_window import sliding_windows

TCL_PATCH = 16
TCL_DILATIONS = (1, 2, 4, 8, 12, 24)
KEY_POINT_SCALE, KEY_POINT_SHIFT = 10.0, 0.25


def word_scores(seed: int, shape: Sequence[int], cell: int, scale: float = 0.08) -> np.ndarray:
    """(..., h, w) scores like cosines: blocks of cell x cell pixels and noise."""
    rng = np.random.RandomState(seed)
    height, width = shape[-2:]
    coarse = rng.standard_normal((*shape[:-2], -(-height // cell), -(-width // cell)))
    blocks = coarse.repeat(cell, -2).repeat(cell, -1)[..., :height, :width]
    return scale * (blocks + 0.3 * rng.standard_normal(tuple(shape)))


def unit_rows(seed: int, shape: Sequence[int]) -> np.ndarray:
    """Rows of length 1: embeddings of texts."""
    rows = np.random.RandomState(seed).standard_normal(tuple(shape))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def model_of(
    meta: dict[str, Any], arrays: dict[str, np.ndarray], device: str, dtype: torch.dtype
) -> 'RefinedScores | DecidedScores | None':
    """What computes the values of a file; ``None`` for a file of another kind."""
    place = {'device': torch.device(device), 'dtype': dtype}
    if 'cases' in meta and all('dilations' in case for case in meta['cases'].values()):
        return RefinedScores(meta, place)
    return DecidedScores(meta, place, arrays) if 'word_sets' in meta else None


class RefinedScores:
    """Values of the file on pixel-adaptive mask refinement.

    Args:
        meta: The file's meta.
        place: Device and type to compute in.
    """

    def __init__(self, meta: dict[str, Any], place: dict[str, Any]) -> None:
        self.cases, self.place = meta['cases'], place

    def compute(self, key: str) -> Tensor | ClassMap | None:
        """What the file should hold under ``key``; ``None`` if the key is unknown."""
        name, _, what = key.partition('/')
        if name not in self.cases:
            return None
        case = self.cases[name]
        pamr = PAMR(case['iterations'], tuple(case['dilations']))
        images = self._tensor(parity_rules.image, 'image', case)
        if what == 'std':
            return torch.stack([local_deviation(image, pamr.dilations) for image in images])
        affinities = [pamr.affinity(image) for image in images]
        if what == 'affinity':
            return torch.stack(affinities)
        scores = F.interpolate(
            self._tensor(word_scores, 'logit', case),
            size=images.shape[2:],
            mode='bilinear',
            align_corners=True,
        )
        refined = torch.stack(list(map(pamr.refine, scores, affinities)))
        return {'refined': refined, 'argmax': map_of(refined)}.get(what)

    def _tensor(self, rule: Any, name: str, case: dict[str, Any]) -> Tensor:
        values = rule(case[f'{name}_seed'], tuple(case[f'{name}_shape']), case['cell'])
        return torch.from_numpy(values).to(**self.place)


class DecidedScores:
    """Values of the file on what makes class maps of scores.

    Args:
        meta: The file's meta.
        place: Device and type to compute in.
        arrays: The file's arrays, for the regions that it gives.
    """

    def __init__(
        self, meta: dict[str, Any], place: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> None:
        self.meta, self.place = meta, place
        self.regions = arrays.get('regions/ids')

    def compute(self, key: str) -> Tensor | ClassMap | Given | None:
        """What the file should hold under ``key``; ``None`` if the key is unknown."""
        part, _, rest = key.partition('/')
        known = {
            'words': self._words,
            'regions': self._regions,
            'slide': self._slide,
            'tcl': self._tcl,
        }
        return known[part](rest) if part in known else None

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(**self.place)

    def _word_pieces(self, name: str) -> tuple[ScorePieces, Tensor] | None:
        if name not in self.meta['word_sets']:
            return None
        classes = torch.tensor(self.meta['word_sets'][name])
        shape = (1, len(classes), *self.meta['size'])
        return pieces_of(
            self._tensor(word_scores(self.meta['logit_seed'], shape, self.meta['cell']))[0]
        ), classes

    def _words(self, key: str) -> Tensor | ClassMap | None:
        name, _, rest = key.partition('/')
        found = self._word_pieces(name)
        if found is None:
            return None
        pieces, classes = found
        if rest == 'plain_argmax_word':
            return map_of(pieces.logits(), pieces.best().columns)
        if match := re.fullmatch(r'scale(\d+)/naclip_probability', rest):
            values = probabilities(pieces, classes, Decision(float(match[1])))
            return values / values.sum(dim=0)
        match = re.fullmatch(
            r'scale(\d+)_area(None|[\d.]+)(?:/(probability)|_prob([\d.]+)/map)', rest
        )
        if match is None:
            return None
        area = None if match[2] == 'None' else float(match[2])
        rule = Decision(float(match[1]), float(match[4] or 0), area)
        if match[3]:
            return probabilities(pieces, classes, rule)
        return map_without_ties(decide(pieces, classes, rule).labels)

    def _regions(self, key: str) -> ClassMap | Given | None:
        """Maps in which regions, but the first, take their most frequent class (CorrCLIP)."""
        if key == 'ids':
            return Given(torch.arange(len(np.unique(self.regions))))
        match = re.fullmatch(r'v[12]_prob([\d.]+)/map', key)
        found = self._word_pieces('background_list')
        if match is None or found is None or self.regions is None:
            return None
        rule = Decision(self.meta['scales'][0], float(match[1]))
        labels = decide(*found, rule).labels
        ids = torch.from_numpy(self.regions).to(labels.device)
        for region in ids.unique()[1:]:
            labels[ids == region] = labels[ids == region].bincount().argmax()
        return map_without_ties(labels)

    def _slide(self, key: str) -> Tensor | ClassMap | None:
        name, _, what = key.partition('/')
        match = re.fullmatch(r'averaged|resized|map|padded_to_(\d+)_resized', what)
        if name not in self.meta['slides'] or match is None:
            return None
        case = self.meta['slides'][name]
        scores = self._windows(case, int(match[1] or 1))
        if what == 'averaged':
            return scores.pieces().logits()
        height, width = case['original']
        if what == 'map':
            return map_of(scores.logits((height, width)), scores.class_map((height, width)))
        return scores.logits((height, width))

    def _windows(self, case: dict[str, Any], divisor: int) -> DenseScores:
        height, width = case['image']
        windows = sliding_windows(
            (height, width), to_2tuple(case['crop']), to_2tuple(case['stride'])
        )
        size = [side + sum(padding_of(side, divisor)) for side in windows[0].size]
        scores = [
            self._tensor(
                word_scores(case['seed'] + k, (1, case['words'], *size), self.meta['cell'])
            )[0]
            for k in range(len(windows))
        ]
        return join_windows((height, width), windows, scores, divisor)

    def _tcl(self, key: str) -> Tensor | ClassMap | None:
        match = re.fullmatch(r'pamr([01])_kp([\d.]+)(?:/(mask)|_bg(None|[\d.]+)/map)', key)
        if match is None:
            return None
        masks = self._tcl_masks(match[1] == '1', float(match[2]))
        if match[3]:
            return masks
        score = None if match[4] == 'None' else float(match[4])
        classes = torch.arange(len(masks)) + (score is not None)
        labels = decide(pieces_of(masks), classes, Decision(background_score=score)).labels
        return map_without_ties(labels)

    def _tcl_masks(self, refined: bool, key_points: float) -> Tensor:
        """(K, H, W), by TCL's formula from scores of seeds."""
        case = self.meta['tcl']
        height, width = case['image']
        image = self._tensor(
            parity_rules.image(case['image_seed'], (1, 3, height, width), case['cell'])
        )
        (top, bottom), (left, right) = (padding_of(side, TCL_PATCH) for side in (height, width))
        image = F.pad(image, (left, right, top, bottom))
        grid = [side // TCL_PATCH for side in image.shape[2:]]
        fine = [4 * side for side in grid]
        cosines = word_scores(case['sim_seed'], (1, case['classes'], *fine), 6, 0.2)
        masks = (case['w'] * self._tensor(cosines + case['sim_mean']) + case['b']).sigmoid()
        if refined:
            pamr = PAMR(10, TCL_DILATIONS, window_downscale=4)
            masks = pamr.refine_window(masks[0], image[0])[None]
        if key_points:
            shape = (1, case['dim'], *grid)
            features = self._tensor(word_scores(case['feature_seed'], shape, 2, 1.0))
            texts = self._tensor(unit_rows(case['text_seed'], (case['classes'], case['dim'])))
            sure = torch.einsum('bdhw,kd->bkhw', F.normalize(features, dim=1), texts)
            sure = (KEY_POINT_SCALE * (sure - KEY_POINT_SHIFT)).sigmoid()
            sure = F.interpolate(sure, size=fine, mode='bilinear', align_corners=False)
            masks = key_points * sure + (1 - key_points) * masks
        masks = F.interpolate(masks, size=image.shape[2:], mode='bilinear', align_corners=False)
        return masks[0, :, top : top + height, left : left + width]


def pieces_of(scores: Tensor) -> ScorePieces:
    """Pieces of scores (K, H, W) that are there."""

    def make(columns: Tensor | None, rows: slice) -> Tensor:
        return (scores if columns is None else scores[columns])[:, rows].clone()

    return ScorePieces(make, len(scores), (scores.shape[1], scores.shape[2]), scores.device)
