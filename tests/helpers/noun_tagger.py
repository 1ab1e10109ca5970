"""A tagger that knows a few words, in the place where nltk keeps the data of its own."""

from pathlib import Path

import nltk
from nltk.tag import PerceptronTagger

SENTENCES = (
    'a_DT dog_NN and_CC a_DT red_JJ cat_NN run_VBP on_IN the_DT grass_NN ._.',
    'two_CD dogs_NNS of_IN Paris_NNP sit_VBP by_IN the_DT car_NN',
    'running_VBG very_RB fast_RB !_. <_NN person_NN >_NN',
    'the_DT Dog_NN sits_VBZ and_CC runs_VBZ on_IN grass_NN',
    'Red_JJ and_CC very_RB red_JJ runs_VBZ fast_RB',
)


def save_tiny_tagger(data: Path) -> None:
    """Train on SENTENCES and save as ``averaged_perceptron_tagger_eng`` under nltk's data."""
    tagger = PerceptronTagger(load=False)
    sentences = [[tuple(word.rsplit('_', 1)) for word in line.split()] for line in SENTENCES]
    tagger.train(
        sentences * 20, nr_iter=1
    )  # words seen 20 times keep their tag wherever they stand
    folder = data / 'taggers' / 'averaged_perceptron_tagger_eng'
    folder.parent.mkdir(parents=True)
    allowed = list(nltk.data.path)
    nltk.data.path.append(str(data))  # nltk writes to its data folders only
    try:
        tagger.save_to_json('eng', str(folder))
    finally:
        nltk.data.path[:] = allowed
