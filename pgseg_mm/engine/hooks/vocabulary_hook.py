import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from pgseg_mm.datasets.zero_shot.wide_labels import voc_colours
from pgseg_mm.text.vocabulary import Vocabulary

from ..models import unwrapped


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Hands the classes under evaluation to the model, and keeps them with the checkpoint.

    Before each validation or test the model gets the class names of the data set, or the words of a
    vocabulary file for the same labels. Checkpoints carry classes, palette and words of the
    validation set in ``meta['dataset_meta']``, where mmseg's ``init_model`` and visualisers look
    for them; a set of image-text pairs has none. Where the set has no palette, its colours are
    those that mmseg draws, or those of Pascal VOC if it draws none. A model that takes no words
    gets none.

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
        self.hand_over(unwrapped(runner.model), runner.val_dataloader.dataset)

    def before_test_epoch(self, runner: Runner) -> None:
        """Hand over the vocabulary of the test set."""
        self.hand_over(unwrapped(runner.model), runner.test_dataloader.dataset)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Let the next prediction look whether words' weights are others again, as after EMA's."""
        _doubt(unwrapped(runner.model))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Likewise."""
        _doubt(unwrapped(runner.model))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write classes, palette and words of the validation set into the checkpoint."""
        if runner.val_loop is None:
            return
        meta = metainfo_of(runner.val_dataloader.dataset)
        classes = meta.get('classes')
        if not classes:
            return  # a model without words, on a data set without classes
        checkpoint['meta']['dataset_meta'] = {
            'classes': tuple(classes),
            'palette': [
                list(colour) for colour in meta.get('palette') or voc_colours(len(classes))
            ],
            'vocabulary': self._vocabulary_of(meta).to_list(),
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave mmengine nothing to compare: the classes of a checkpoint are those of validation,
        and it would warn that the training set has others.
        """
        meta = checkpoint.get('meta')
        if runner._resume and isinstance(meta, dict) and 'dataset_meta' in meta:
            known = getattr(runner.train_dataloader.dataset, 'metainfo', None)
            checkpoint['meta'] = {**meta, 'dataset_meta': known}

    def hand_over(self, model: Any, dataset: Any) -> None:
        """Tell a model the words of a data set; one that takes none is left as it is.

        Args:
            model: The model, not wrapped.
            dataset: The data set under evaluation.

        Raises:
            ValueError: If the data set names no classes, the vocabulary is one of other classes, or
                the model takes no words and the hook has a vocabulary of its own.
        """
        if takes_words(model):
            vocabulary = self._vocabulary_of(metainfo_of(dataset))
            model.set_vocabulary(vocabulary)
            _tell_of_a_background_by_word(model, vocabulary)
        elif self.vocabulary is not None:
            raise ValueError(
                f'VocabularyHook has a vocabulary, but {type(model).__name__} takes no words; '
                'leave vocabulary out'
            )

    def _vocabulary_of(self, meta: Mapping[str, Any]) -> Vocabulary:
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


def _tell_of_a_background_by_word(model: Any, vocabulary: Vocabulary) -> None:
    head, decision = getattr(model, 'decode_head', None), getattr(model, 'decision', None)
    alone = vocabulary.words[0] == ('background',)
    if alone and decision is None and not getattr(head, 'with_background', True):
        print_log(
            "class 0 is called background, and is looked for by that word like any other's; set "
            'background_threshold of the head to find it by threshold',
            logger='current',
            level=logging.WARNING,
        )


def _doubt(model: Any) -> None:
    """Have a model look whether its words' embeddings still are those of its weights."""
    vocabulary = getattr(model, 'vocabulary', None)
    if takes_words(model) and vocabulary is not None:
        model.set_vocabulary(vocabulary)


def takes_words(model: Any) -> bool:
    """Whether a model must be told what to look for."""
    return hasattr(model, 'set_vocabulary') and getattr(model, 'needs_words', True)


def metainfo_of(dataset: Any) -> Mapping[str, Any]:
    """Meta information of a data set; empty for one that has none, as torch's own."""
    return getattr(dataset, 'metainfo', None) or {}
