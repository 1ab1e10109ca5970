"""The vocabularies that come with the package, against the data sets' own classes."""

from importlib import resources

import pytest
from mmseg.registry import DATASETS
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from pgseg_mm.cli.protocols import protocol_names, read_protocol
from pgseg_mm.text.vocabulary import SHIPPED, Vocabulary

SIZES = dict(
    voc21=21,
    voc20=20,
    context60=60,
    context59=59,
    coco_object=81,
    coco_stuff=171,
    ade20k=150,
    cityscapes=19,
    imagenet_s50=51,
    imagenet_s300=301,
    imagenet_s919=920,
    lvis=1204,
    davis2016=16,
)
WITH_BACKGROUND = {
    'voc21',
    'context60',
    'coco_object',
    'imagenet_s50',
    'imagenet_s300',
    'imagenet_s919',
    'lvis',
    'davis2016',
}
WITHOUT_SYNONYMS = {'davis2016', 'lvis', 'imagenet_s50', 'imagenet_s300', 'imagenet_s919'}
WITH_SYNONYMS = SIZES.keys() - WITHOUT_SYNONYMS

VOC_WORDS = dict(diningtable='table', pottedplant='plant', tvmonitor='monitor')
CONTEXT_WORDS = dict(aeroplane='airplane', pottedplant='plant', tvmonitor='monitor')
STUFF_WORDS = {
    'ceiling-tile': 'tiled ceiling',
    'floor-marble': 'marble floor',
    'floor-stone': 'stone floor',
    'floor-tile': 'tiled floor',
    'floor-wood': 'wooden floor',
    'playingfield': 'playing field',
    'solid-other': 'solid object',
    'structural-other': 'structure',
    'wall-brick': 'brick wall',
    'wall-concrete': 'concrete wall',
    'wall-panel': 'paneled wall',
    'wall-stone': 'stone wall',
    'wall-tile': 'tiled wall',
    'wall-wood': 'wooden wall',
    'waterdrops': 'water drops',
    'window-blind': 'window blind',
}


def test_all_benchmarks_have_a_file_and_no_file_is_without_a_test():
    synonyms = {f'{name}_synonyms' for name in WITH_SYNONYMS}
    expected = {*SIZES, *synonyms, 'davis2016_surroundings'}
    assert {path.stem for path in SHIPPED.glob('*.txt')} == expected


def test_words_of_published_evaluations_are_used_and_shared():
    """What they say is tested with the protocols."""
    files = {
        path.relative_to(SHIPPED).with_suffix('').as_posix() for path in SHIPPED.rglob('*.txt')
    }
    protocols = [read_protocol(name) for name in protocol_names()]
    used = {own['words'] for p in protocols for own in p.benchmarks.values() if own}
    assert {name for name in files if '/' in name} == {name for name in used if '/' in name}
    words = {name: Vocabulary.from_file(name).words for name in used | SIZES.keys()}
    assert len(set(words.values())) == len(words)  # no list twice


@pytest.mark.parametrize('name', SIZES)
def test_one_readable_word_a_class(name):
    vocabulary = Vocabulary.from_file(name)

    assert len(vocabulary) == SIZES[name]
    assert vocabulary.has_background == (name in WITH_BACKGROUND)
    assert all(len(words) == 1 for words in vocabulary.words)
    assert not [word for word in vocabulary.names if set(word) & set('_()[]/')]


@pytest.mark.parametrize('name', sorted(WITH_SYNONYMS))
def test_synonyms_stand_behind_the_word_of_the_published_evaluation(name):
    vocabulary = Vocabulary.from_file(f'{name}_synonyms')

    assert vocabulary.names == Vocabulary.from_file(name).names
    first = int(vocabulary.has_background)
    assert all(len(words) > 1 for words in vocabulary.words[first:])


@pytest.mark.parametrize(
    ('name', 'dataset', 'renamed'),
    [
        ('voc21', 'PascalVOCDataset', VOC_WORDS),
        ('context60', 'PascalContextDataset', CONTEXT_WORDS),
        ('context59', 'PascalContextDataset59', CONTEXT_WORDS),
        ('coco_stuff', 'COCOStuffDataset', STUFF_WORDS),
        ('ade20k', 'ADE20KDataset', {}),
        ('cityscapes', 'CityscapesDataset', {}),
    ],
)
def test_words_are_in_the_order_of_mmsegs_labels(name, dataset, renamed):
    classes = [label.strip() for label in DATASETS.get(dataset).METAINFO['classes']]
    plain = [label.removesuffix('-other').removesuffix('-stuff') for label in classes]

    expected = [renamed.get(label, short) for label, short in zip(classes, plain, strict=True)]
    assert list(Vocabulary.from_file(name).names) == expected
    assert set(renamed) <= set(classes)


def test_benchmarks_without_background_are_the_others_less_class_0():
    for without, with_background in (('voc20', 'voc21'), ('context59', 'context60')):
        for kind in ('', '_synonyms'):
            words = Vocabulary.from_file(with_background + kind).words
            assert Vocabulary.from_file(without + kind).words == words[1:]


def test_things_of_coco_are_those_of_coco_stuff():
    things = Vocabulary.from_file('coco_object').names[1:]
    stuff = DATASETS.get('COCOStuffDataset').METAINFO['classes']

    assert [thing.replace('aero', 'air') for thing in things] == list(stuff[:80])


# WordNet ids of ImageNet-S50, as its repository lists them
IMAGENET_S50 = """
n01443537 n01491361 n01531178 n01644373 n02104029 n02119022 n02123597 n02133161 n02165456 n02281406
n02325366 n02342885 n02396427 n02483362 n02504458 n02510455 n02690373 n02747177 n02783161 n02814533
n02859443 n02917067 n02992529 n03014705 n03047690 n03095699 n03197337 n03201208 n03445777 n03452741
n03584829 n03630383 n03775546 n03791053 n03874599 n03891251 n04026417 n04335435 n04380533 n04404412
n04447861 n04507155 n04522168 n04557648 n04562935 n04612504 n06794110 n07749582 n07831146 n12998815
"""
# that ImageNet-S919 counts as another class
MERGED = ('n04356056', 'n04493381', 'n03642806', 'n04008634', 'n03887697')
# words of the published evaluation that are none of WordNet's for the class
OTHER_WORDS = {
    'American dipper': 'water ouzel',
    'newt': 'eft',
    'bittern bird': 'bittern',
    'crane bird': 'crane',
    'Japanese Chin': 'japanese spaniel',
    'bluetick coonhound': 'bluetick',
    'black and tan coonhound': 'black-and-tan coonhound',
    'Walker coonhound': 'walker hound',
    'redbone coonhound': 'redbone',
    'Boston bull terrier': 'boston bull',
    'Leonberger': 'leonberg',
    'Brussels griffon': 'brabancon griffon',
    'red admiral butterfly': 'admiral',
    'small white butterfly': 'cabbage butterfly',
    'gossamer-winged butterfly': 'lycaenid',
    'common sorrel horse': 'sorrel',
    'rock beauty fish': 'rock beauty',
    'amphibian vehicle': 'amphibian',
    'brass memorial plaque': 'brass',
    'four-poster bed': 'four-poster',
    'hair clip': 'hair slide',
    'half-track': 'half track',
    'hand dryer': 'hand blower',
    'hoop skirt': 'hoopskirt',
    'baby pacifier': 'nipple',
    'railroad car': 'passenger car',
    'block plane': 'plane',
    'scarf': 'stole',
    'split-rail fence': 'worm fence',
    'shipwreck': 'wreck',
    'sailboat': 'yawl',
    'Granny Smith apple': 'granny smith',
    'corn cob': 'ear',
}


@pytest.fixture(scope='module')
def synsets() -> dict[str, set[str]]:
    """WordNet's words for each of ImageNet's 1000 ids, in sorted order."""
    folder = resources.files('timm') / 'data' / '_info'
    lemmas = dict(
        line.split('\t', 1)
        for line in (folder / 'imagenet_synset_to_lemma.txt').read_text().splitlines()
    )
    ids = (folder / 'imagenet_synsets.txt').read_text().split()
    assert ids == sorted(ids)
    return {wnid: {word.casefold() for word in lemmas[wnid].split(', ')} for wnid in ids}


def wnid_of_each_class(name: str, synsets: dict[str, set[str]]) -> list[str]:
    """Ids whose words those of a vocabulary are, each behind the one before it."""
    ids = iter(synsets)
    found = []
    for word in Vocabulary.from_file(name).names[1:]:
        known = OTHER_WORDS.get(word, word).casefold()
        found.append(next((wnid for wnid in ids if known in synsets[wnid]), word))
    return found


@pytest.mark.parametrize('name', ['imagenet_s50', 'imagenet_s300', 'imagenet_s919'])
def test_labels_of_imagenet_s_are_positions_of_sorted_wordnet_ids(name, synsets):
    ids = wnid_of_each_class(name, synsets)

    assert set(ids) <= set(synsets)
    if name == 'imagenet_s50':
        assert ids == IMAGENET_S50.split()
    assert set(IMAGENET_S50.split()) <= set(ids)
    assert not set(MERGED) & set(ids)


def test_subsets_of_imagenet_s_are_parts_of_the_whole():
    s50, s300, s919 = (
        Vocabulary.from_file(f'imagenet_s{number}').names for number in (50, 300, 919)
    )
    assert [word for word in s300 if word in s50] == list(s50)
    assert [word for word in s919 if word in s300] == list(s300)


@pytest.mark.parametrize(
    ('category', 'word'),
    [
        (1, 'aerosol can'),
        (45, 'banana'),
        (207, 'car'),
        (225, 'cat'),
        (793, 'person'),
        (1203, 'zucchini'),
    ],
)
def test_labels_of_lvis_are_its_category_ids(category, word):
    assert Vocabulary.from_file('lvis').names[category] == word


def test_imagenet1k_is_open_clips_list_in_which_words_stand_for_two_classes():
    vocabulary = Vocabulary.from_file('imagenet1k')

    assert vocabulary.names == tuple(IMAGENET_CLASSNAMES)
    assert len(set(vocabulary.names)) < len(vocabulary) == 1000
    with pytest.raises(ValueError, match='a word may name only one class'):
        Vocabulary.from_names(IMAGENET_CLASSNAMES)
