from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from pgseg_mm.utils.vocabulary import Vocabulary


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Hands the classes under evaluation to the model, and keeps them with the checkpoint.

    Before each validation or test the model gets the class names of the data set, or the words of a
    vocabulary file for the same labels. Checkpoints carry classes, palette and words of the
    validation set in ``meta['dataset_meta']``, where mmseg's ``init_model`` and visualisers look
    for them; a set of image-text pairs has none.

    Args:
        vocabulary: A text file with the prompt words of each label, one class a line in label
            order, synonyms separated by commas; ``None`` for the data set's own class names.
    """

    # after EMAHook has put its weights into the model
    priority = 'LOW'

    def __init__(self, vocabulary: str | Path | None = None) -> None:
        self.vocabulary = None if vocabulary is None else Vocabulary.from_file(vocabulary)

    def before_val_epoch(self, runner: Runner) -> None:
        """Hand over the vocabulary of the validation set."""
        self._hand_over(runner, runner.val_dataloader.dataset.metainfo)

    def before_test_epoch(self, runner: Runner) -> None:
        """Hand over the vocabulary of the test set."""
        self._hand_over(runner, runner.test_dataloader.dataset.metainfo)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write classes, palette and words of the validation set into the checkpoint."""
        if runner.val_loop is None:
            return
        meta = runner.val_dataloader.dataset.metainfo
        checkpoint['meta']['dataset_meta'] = {
            'classes': tuple(meta['classes']),
            'palette': [list(colour) for colour in meta['palette']],
            'vocabulary': self._vocabulary_of(meta).to_list(),
        }

    def _hand_over(self, runner: Runner, meta: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.set_vocabulary(self._vocabulary_of(meta))

    def _vocabulary_of(self, meta: dict) -> Vocabulary:
        classes = meta.get('classes')
        if not classes:
            raise ValueError(
                'the data set under evaluation names no classes; set metainfo=dict(classes=...) in '
                'its config'
            )
        if self.vocabulary is None:
            return Vocabulary.from_names(classes)
        self.vocabulary.check_matches(classes)
        return self.vocabulary
