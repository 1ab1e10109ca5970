from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from pgseg_mm.text.words import VocabularyLike

from .open_vocab_segmentor import OpenVocabSegmentor


@MODELS.register_module()
class PGSegTTAModel(BaseTTAModel):
    """PGSeg with test-time augmentation: the mean of the class scores of several views.

    mmseg's ``SegTTAModel`` puts scores through a softmax before it averages them. PGSeg's scores
    are probabilities already, and the background's is 0 or 1, so they are averaged as they are, at
    the original size. No dense scores of a view are held: memory hardly grows with the classes.

    Args:
        module: Config of a :class:`PGSeg` or another :class:`OpenVocabSegmentor`, or one that is
            built.
        data_preprocessor: Config of a data preprocessor that takes the place of the model's.

    Raises:
        TypeError: If the model is not a PGSeg.
    """

    module: OpenVocabSegmentor

    def __init__(
        self, module: dict | OpenVocabSegmentor, data_preprocessor: dict | None = None
    ) -> None:
        super().__init__(module, data_preprocessor)
        if data_preprocessor is not None and not isinstance(module, dict):
            self.module.data_preprocessor = MODELS.build(data_preprocessor)
        if not isinstance(self.module, OpenVocabSegmentor):
            raise TypeError(
                f'PGSegTTAModel averages the scores of a PGSeg, got {type(self.module).__name__}; '
                "use mmseg's SegTTAModel"
            )

    def set_vocabulary(self, vocabulary: VocabularyLike) -> None:
        """Choose the classes to predict; see :meth:`PGSeg.set_vocabulary`."""
        self.module.set_vocabulary(vocabulary)

    def test_step(self, data: dict[str, Any]) -> list[SegDataSample]:
        """Segment a batch of images by all their views.

        Args:
            data: What mmcv's ``TestTimeAug`` and mmengine's ``pseudo_collate`` make: ``inputs`` and
                ``data_samples`` have one entry a view, each of which is a list of B.

        Returns:
            B samples, those of the first view, as :meth:`PGSeg.predict` fills them. Groups, if
            ``test_cfg`` asks for them, are those of the first view.
        """
        views: list[list[SegDataSample]] = []
        for inputs, data_samples in zip(data['inputs'], data['data_samples'], strict=True):
            batch = {'inputs': inputs, 'data_samples': data_samples}
            batch = self.module.data_preprocessor(batch, False)
            views.append(self._segment_view(batch, with_groups=not views))
        return self.merge_preds(list(zip(*views, strict=True)))

    def _segment_view(self, batch: dict[str, Any], with_groups: bool) -> list[SegDataSample]:
        inputs, samples = batch['inputs'], batch['data_samples']
        for sample, scores in zip(samples, self.module.segment(inputs, samples), strict=True):
            sample.set_field(scores, 'stitched_scores')
        if with_groups and self.module.test_cfg.get('groups', False):
            self.module.add_groups(inputs, samples)
        return samples

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[SegDataSample]]
    ) -> list[SegDataSample]:
        """Average the scores of the views of each image.

        Args:
            data_samples_list: For each image its views, with ``stitched_scores``.

        Returns:
            The first view of each image, with the prediction.
        """
        for samples in data_samples_list:
            self.module.fill_sample(samples[0], [sample.stitched_scores for sample in samples])
            for sample in samples:
                del sample.stitched_scores
        return [samples[0] for samples in data_samples_list]
