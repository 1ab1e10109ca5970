"""Retrieval of captions by images, and of images by captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from torch import Tensor

DECIMALS = 6
"""Of a cosine; what is below comes of the order in which a product is summed."""
BLOCK_CELLS = 2**24
"""Similarities that are held at a time."""


class Places(NamedTuple):
    """How the right candidates of each query stand among all of them; (Q,), float64."""

    before: Tensor
    """Wrong candidates that are more alike than the best right one."""
    right: Tensor
    """Right candidates that are as alike as the best right one, itself among them."""
    wrong: Tensor
    """Wrong candidates that are as alike as that."""


@METRICS.register_module()
class ImageTextRetrievalMetric(BaseMetric):
    """Recall and median rank of retrieval in both directions.

    For each image (``i2t``) all captions are ordered by their cosine with it, and the place of the
    first that is its own is its rank; for each caption (``t2i``) all images, and the place of its
    own. ``R@k`` is the percentage of ranks up to k. Candidates that are equally alike, to six
    decimals, count as if they stood in random order: recall and rank are the expected ones. So a
    model that embeds everything alike has the recall of chance, not all or nothing, which is why
    this is not mmpretrain's ``RetrievalRecall``. Images and captions of all ranks are compared.

    Args:
        topk: The k of ``R@k``.
        collect_device: ``'cpu'`` or ``'gpu'``, by which results of several ranks are collected.
        prefix: Prefix of the metrics' names, ``'retrieval'`` by default.

    Raises:
        ValueError: If there is no ``topk`` or one below 1, or embeddings are not finite, or an
            image has no caption.

    Examples:
        >>> test_evaluator = dict(type='ImageTextRetrievalMetric', topk=(1, 5, 10))
    """

    default_prefix = 'retrieval'

    def __init__(
        self,
        topk: int | Sequence[int] = (1, 5, 10),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'topk must be one or several numbers of at least 1, got {topk!r}')

    def process(self, data_batch: Any, data_samples: Sequence[Mapping]) -> None:
        """Keep the embeddings of a batch.

        Args:
            data_batch: Not used.
            data_samples: Results of the model, an image each, with ``image_embeds`` (D,) and
                ``text_embeds`` (T, D) of its T captions.
        """
        for sample in data_samples:
            image = sample['image_embeds'].detach().float().cpu()
            texts = sample['text_embeds'].detach().float().cpu()
            if len(texts) == 0:
                raise ValueError(
                    f'image {sample.get("img_path")} has no caption to retrieve; leave it out'
                )
            if not (image.isfinite().all() and texts.isfinite().all()):
                raise ValueError(
                    f'embeddings of image {sample.get("img_path")} or of its captions have NaN or '
                    'infinite values'
                )
            self.results.append(torch.cat([image[None], texts]).numpy())

    def compute_metrics(self, results: Sequence[np.ndarray]) -> dict[str, float]:
        """Compute the metrics of the whole data set.

        Args:
            results: What :meth:`process` collected: for each image an array (1 + T, D).

        Returns:
            ``i2t_R@k`` and ``t2i_R@k`` for each k, in percent, and ``i2t_median_rank`` and
            ``t2i_median_rank``, which begin at 1.
        """
        embeds = torch.from_numpy(np.concatenate(results)).double()
        embeds = torch.nn.functional.normalize(embeds, dim=-1)
        counts = torch.tensor([len(rows) for rows in results])
        owners = torch.repeat_interleave(torch.arange(len(results)), counts)
        is_image = torch.zeros(len(embeds), dtype=torch.bool)
        is_image[counts.cumsum(0) - counts] = True
        images, texts, owners_of_texts = embeds[is_image], embeds[~is_image], owners[~is_image]
        numbers = torch.arange(len(images))
        metrics: dict[str, float] = {}
        for name, places in (
            ('i2t', find_places(images, texts, numbers, owners_of_texts)),
            ('t2i', find_places(texts, images, owners_of_texts, numbers)),
        ):
            for k in self.topk:
                metrics[f'{name}_R@{k}'] = 100 * float(expected_recall(places, k).mean())
            metrics[f'{name}_median_rank'] = float(np.median(expected_rank(places).numpy()))
        return metrics


def find_places(
    queries: Tensor, candidates: Tensor, query_owners: Tensor, candidate_owners: Tensor
) -> Places:
    """How the right candidates of each query stand.

    Args:
        queries: (Q, D), normalised.
        candidates: (C, D), normalised.
        query_owners: (Q,) number of the image that each query is of, or belongs to.
        candidate_owners: (C,) the same of the candidates; right ones are of the same image.
    """
    step = max(1, BLOCK_CELLS // len(candidates))
    blocks = []
    for block, owners in zip(queries.split(step), query_owners.split(step), strict=True):
        similarity = (block @ candidates.T).round(decimals=DECIMALS)
        is_right = owners[:, None] == candidate_owners
        best = similarity.masked_fill(~is_right, float('-inf')).amax(dim=1, keepdim=True)
        is_best = similarity == best
        blocks.append(
            torch.stack(
                [
                    (similarity > best).sum(dim=1),
                    (is_best & is_right).sum(dim=1),
                    (is_best & ~is_right).sum(dim=1),
                ]
            )
        )
    return Places(*torch.cat(blocks, dim=1).double())


def expected_recall(places: Places, k: int) -> Tensor:
    """(Q,) chance that a right candidate is among the first k, equally alike ones in random order.

    Of ``right + wrong`` such candidates the first ``j = k - before`` are all wrong by chance
    ``C(wrong, j) / C(right + wrong, j)``.
    """
    before, right, wrong = places
    drawn = (k - before).clamp(min=0)
    total = right + wrong
    some_right = drawn > wrong
    drawn = drawn.minimum(wrong)
    all_wrong = _log_choose(wrong, drawn) - _log_choose(total, drawn)
    return torch.where(some_right, 1.0, 1 - all_wrong.exp())


def expected_rank(places: Places) -> Tensor:
    """(Q,) mean place of the first right candidate, equally alike ones in random order."""
    before, right, wrong = places
    return before + (right + wrong + 1) / (right + 1)


def _log_choose(total: Tensor, drawn: Tensor) -> Tensor:
    return torch.lgamma(total + 1) - torch.lgamma(drawn + 1) - torch.lgamma(total - drawn + 1)
