"""Images to class maps by training-free methods on CLIP, computed again for the parity check."""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.structures import SegDataSample
from torch import Tensor, nn

import parity_rules
from clip_parity_features import TOWER, check_meta, load_weights, model_folder
from clip_parity_postprocess import unit_rows
from parity_maps import ClassMap
from pgseg_mm.models import CLIPDenseViT, DenseCLIPHead, OpenVocabSegmentor
from pgseg_mm.models.inference.pixel_classes import mean_logits
from pgseg_mm.models.text_encoders import TextFeatures
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.text.vocabulary import Vocabulary

SETTINGS = TOWER | {'text_seed', 'word_classes', 'logit_scale', 'prob', 'cases'}
PAMR = {'num_iters': 10, 'dilations': (8, 16)}
METHODS = ('sclip', 'naclip', 'clearclip')
REFINED = '_pamr'


def model_of(meta: dict[str, Any], device: str, dtype: torch.dtype) -> 'SegmentedImages | None':
    """What computes the values of a file; ``None`` for a file of another kind."""
    return SegmentedImages(meta, device, dtype) if 'word_classes' in meta else None


class GivenTexts(nn.Module):
    """A text encoder whose words are numbers, with an embedding of a seed for each."""

    def __init__(self, seed: int, words: int, width: int) -> None:
        super().__init__()
        self.embed_dims = self.token_dims = width
        rows = torch.from_numpy(unit_rows(seed, (words, width)))
        self.rows = nn.Parameter(rows, requires_grad=False)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(T, 1), the number of each text and one more; 0 is for texts that are no numbers."""
        return torch.tensor([[int(text) + 1 if text.isdigit() else 0] for text in texts])

    def forward(self, tokens: Tensor) -> TextFeatures:
        """The rows of texts."""
        rows = self.rows[tokens[:, 0] - 1]
        return TextFeatures(rows, rows[:, None], tokens > 0)


class SegmentedImages:
    """Our segmentors with the weights that a file's meta names, and what they make of its images.

    Args:
        meta: The file's meta.
        device: Where to compute.
        dtype: What to compute in, ``torch.float64`` or ``torch.float32``.

    Raises:
        CheckpointError: If something in ``meta`` is missing or not understood.
    """

    def __init__(self, meta: dict[str, Any], device: str, dtype: torch.dtype) -> None:
        check_meta(meta, SETTINGS)
        self.meta = meta
        self.place = {'device': torch.device(device), 'dtype': dtype}
        labels = meta['word_classes']
        if {*labels} != {*range(len({*labels}))}:
            raise CheckpointError(f'meta word_classes must be 0, 1, 2, ..., got {labels}')
        words = [[i for i, own in enumerate(labels) if own == k] for k in range(len({*labels}))]
        self.order = torch.tensor([word for own in words for word in own]).argsort()
        self.vocabulary = Vocabulary(tuple(tuple(map(str, own)) for own in words))

    def compute(self, key: str) -> Tensor | ClassMap | None:
        """What the file should hold under ``key``; ``None`` if the key is unknown."""
        case, _, rest = key.partition('/')
        name, _, what = rest.partition('/')
        method = name.removesuffix(REFINED)
        if case not in self.meta['cases'] or method not in METHODS:
            return None
        if what not in ('scores_s5', 'map'):
            return None
        settings = self.meta['cases'][case]
        model = self._model(method, settings, refined=name != method)
        height, width = settings['original']
        shape = (1, 3, *settings['image'])
        image = parity_rules.image(settings['seed'], shape, self.meta['cell'])
        images = torch.from_numpy(image).to(**self.place)
        sample = SegDataSample(metainfo={'ori_shape': (height, width)})
        if what == 'scores_s5':
            views = model.segment(images, [sample])
            rules = model.pixel_rules()._replace(decision=None)
            return mean_logits(views, (height, width), rules)[self.order, 2::5, 2::5]
        result = model.predict(images, [sample])[0]
        return self._map(result.pred_sem_seg.data[0], result.seg_logits.data)

    def _map(self, labels: Tensor, probabilities: Tensor) -> ClassMap:
        """A map whose ties are those of probabilities, and of the largest with the threshold."""
        best = probabilities.amax(dim=0)

        def gaps(other: Tensor) -> Tensor:
            legal = other.clamp(0, len(probabilities) - 1)
            gap = best - probabilities.gather(0, legal[None])[0]
            by_threshold = (best - self.meta['prob']).abs()
            zero = (labels == 0) | (other == 0)
            gap = torch.where(zero, torch.minimum(gap, by_threshold), gap)
            return gap.masked_fill(other != legal, float('inf'))

        return ClassMap(labels, gaps)

    def _model(self, method: str, case: dict[str, Any], refined: bool) -> OpenVocabSegmentor:
        test_cfg: dict[str, Any] = {
            'seg_logits': True,
            'decision': {
                'logit_scale': self.meta['logit_scale'],
                'prob_threshold': self.meta['prob'],
            },
            'pamr': PAMR if refined else None,
        }
        if case['crop']:
            test_cfg.update(mode='slide', crop_size=case['crop'], stride=case['stride'])
        elif method == 'sclip':
            test_cfg.update(mode='whole', resize='direct')
        if method == 'clearclip':
            test_cfg.update(window_divisor=self.meta['patch_size'])
        width = self.meta['output_dim']
        with model_folder(self.meta) as name:
            model = OpenVocabSegmentor(
                {
                    'type': CLIPDenseViT,
                    'model_name': name,
                    'attention': method,
                    'pos_embed': 'offset',
                },
                {
                    'type': GivenTexts,
                    'seed': self.meta['text_seed'],
                    'words': len(self.meta['word_classes']),
                    'width': width,
                },
                {'type': DenseCLIPHead, 'in_channels': width},
                templates=['{}'],
                test_cfg=test_cfg,
            ).double()
        load_weights(model.backbone, self.meta['weight_seed'])
        model.set_vocabulary(self.vocabulary)
        return model.to(**self.place).eval()
