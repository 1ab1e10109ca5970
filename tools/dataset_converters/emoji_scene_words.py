"""Vocabulary and captions of ``emoji_scenes.py``: class names, articles and sentence templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

NAMES_FILE = Path(__file__).resolve().parent / 'emoji_scene_names.tsv'
MIN_CLASSES, MAX_CLASSES = 10, 1000
# An object with one of these in its name is another thing in a mirror, or bears writing.
_ONE_WAY = (
    'left, right, stop, joker, placard, calendar, place medal, 8 ball, hundred points, '
    'newspaper, globe, map, dollar, euro, pound, musical, quarter moon, crescent moon, '
    'gibbous moon, hospital, hotel, school, bank, compass, chart, clock'
)
ONE_WAY = tuple(re.split(', ', _ONE_WAY))


@dataclass(frozen=True)
class ObjectClass:
    """A class that is drawn as one OpenMoji graphic.

    Attributes:
        name: class name, lower case ASCII, without commas.
        stem: stem of the graphic's file name in the OpenMoji set.
        article: ``a``, ``an``, ``-`` (mass noun or proper name) or ``+`` (plural).
    """

    name: str
    stem: str
    article: str

    @property
    def mirrors(self) -> bool:
        """Whether the graphic may be mirrored."""
        return not any(has_word(self.name, words) for words in ONE_WAY)


@dataclass(frozen=True)
class TextureClass:
    """A class that fills the background.

    Attributes:
        name: class name.
        article: as in :class:`ObjectClass`.
        source: name of the grey photograph in ``skimage.data``.
        window: smallest and largest side of the crop, in pixels of the 512-pixel photograph,
            that fills the short side of a scene.
        ramp: RGB colours, 0-255, that the darkest and the brightest grey are mapped to.
        contrast: smallest and largest factor on the spread of the greys.
        blur: standard deviation of the smoothing, as a share of the short image side.
        upright: whether the photograph has a direction (rows of bricks stay horizontal).
        places: phrases that say that something is seen on this texture.
    """

    name: str
    article: str
    source: str
    window: tuple[int, int]
    ramp: tuple[tuple[int, int, int], tuple[int, int, int]]
    contrast: tuple[float, float]
    blur: float
    upright: bool
    places: tuple[str, ...]


def _on(name: str) -> tuple[str, ...]:
    return (f'on {name}', f'on the {name}', f'lying on {name}', f'placed on {name}')


TEXTURES = (
    TextureClass(
        'grass',
        '-',
        'grass',
        (110, 220),
        ((16, 52, 6), (124, 196, 58)),
        (0.9, 1.2),
        0.0,
        False,
        (*_on('grass'), 'in the grass'),
    ),
    TextureClass(
        'brick wall',
        'a',
        'brick',
        (200, 340),
        ((112, 38, 24), (228, 176, 160)),
        (0.9, 1.1),
        0.0,
        True,
        (
            'in front of a brick wall',
            'against a brick wall',
            'by the brick wall',
            'on a brick wall',
        ),
    ),
    TextureClass(
        'gravel',
        '-',
        'gravel',
        (110, 210),
        ((36, 36, 36), (214, 214, 214)),
        (0.9, 1.2),
        0.0,
        False,
        _on('gravel'),
    ),
    TextureClass(
        'sand',
        '-',
        'gravel',
        (380, 512),
        ((176, 130, 62), (246, 214, 150)),
        (0.5, 0.7),
        0.004,
        False,
        (*_on('sand'), 'in the sand'),
    ),
    TextureClass(
        'snow',
        '-',
        'gravel',
        (160, 320),
        ((196, 210, 232), (246, 250, 255)),
        (0.6, 0.9),
        0.02,
        False,
        (*_on('snow'), 'in the snow'),
    ),
    TextureClass(
        'carpet',
        'a',
        'grass',
        (300, 460),
        ((44, 20, 84), (134, 86, 206)),
        (0.7, 1.0),
        0.0,
        False,
        ('on a carpet', 'on the carpet', 'lying on a carpet', 'placed on a carpet'),
    ),
)

# {s}: the objects, {be}: is or are, {t}: where (one of TextureClass.places), {g}: the texture.
_WITH_TEXTURE = (
    '{s} {t}',
    '{s} {t}',
    'a photo of {s} {t}',
    'a picture of {s} {t}',
    'an image of {s} {t}',
    'there {be} {s} {t}',
    'a snapshot showing {s} {t}',
    'this shows {s} {t}',
    '{s} with {g} in the background',
    'a photo of {s} with {g} behind',
    '{g} and {s}',
    '{g} with {s}',
    'we see {s} {t}',
    'a scene with {s} {t}',
    'one can see {s} {t}',
    '{g} as the background for {s}',
    'a view of {s} {t}',
    'here {be} {s} {t}',
)
_WITHOUT_TEXTURE = (
    '{s}',
    'a photo of {s}',
    'a picture of {s}',
    'an image of {s}',
    'there {be} {s}',
    'a snapshot showing {s}',
    'this shows {s}',
    'we see {s}',
    'a scene with {s}',
    'one can see {s}',
    'a view of {s}',
    'here {be} {s}',
)
_TEXTURE_ALONE = (
    'a photo of {g}',
    'a picture of {g}',
    'an image of {g}',
    'nothing but {g}',
    'this shows {g}',
    'we see {g}',
    'a view of {g}',
    'only {g}',
    '{g}',
)
_JOINERS = ('{} and {}', '{} and {}', '{} with {}', '{} as well as {}', '{} together with {}')
_SIZES = {'small': ('small', 'little', 'tiny'), 'large': ('large', 'big', 'huge')}
_ROWS = ('top', '', 'bottom')
_COLUMNS = ('left', '', 'right')
_UNKNOWN = 'something'
_OMIT_TEXTURE, _SAY_SIZE, _SAY_PLACE = 0.2, 0.3, 0.3


def _template_words() -> frozenset[str]:
    """All the words that a caption may hold besides the class names."""
    texts = [
        *_WITH_TEXTURE,
        *_WITHOUT_TEXTURE,
        *_TEXTURE_ALONE,
        *_JOINERS,
        *_ROWS,
        *_COLUMNS,
        _UNKNOWN,
        'is are a an the one some in on at of side corner middle centre',
    ]
    texts += [word for words in _SIZES.values() for word in words]
    texts += [place.replace(t.name, ' ') for t in TEXTURES for place in t.places]
    return frozenset(re.findall(r'[a-z]+', re.sub(r'\{.*?\}', ' ', ' '.join(texts))))


TEMPLATE_WORDS = _template_words()


@lru_cache(maxsize=1)
def all_objects() -> tuple[ObjectClass, ...]:
    """Read the frozen list of objects, in the order in which a vocabulary takes them."""
    objects = []
    for number, line in enumerate(NAMES_FILE.read_text(encoding='utf-8').splitlines(), 1):
        if not line or line.startswith('#'):
            continue
        fields = line.split('\t')
        if len(fields) != 3 or fields[1] not in ('a', 'an', '-', '+'):
            raise ValueError(
                f'{NAMES_FILE.name}, line {number}: expected stem, article and name '
                f'separated by tabs, got {line!r}'
            )
        objects.append(ObjectClass(name=fields[2], stem=fields[0], article=fields[1]))
    return tuple(objects)


@dataclass(frozen=True)
class SceneVocabulary:
    """The classes of a data set; the label of a class is its place, objects before textures."""

    objects: tuple[ObjectClass, ...]
    textures: tuple[TextureClass, ...]

    @classmethod
    def of_size(cls, num_classes: int) -> SceneVocabulary:
        """Take the first objects and 3 to 6 textures, ``num_classes`` classes together."""
        if not MIN_CLASSES <= num_classes <= MAX_CLASSES:
            raise ValueError(
                f'the number of classes must be from {MIN_CLASSES} to {MAX_CLASSES}, '
                f'got {num_classes}'
            )
        num_textures = min(len(TEXTURES), max(3, num_classes // 4))
        return cls(all_objects()[: num_classes - num_textures], TEXTURES[:num_textures])

    @property
    def names(self) -> list[str]:
        """The class names in label order."""
        return [c.name for c in (*self.objects, *self.textures)]

    def labels_with(self, word: str) -> list[int]:
        """The labels of the classes that are named ``word`` or have it in their names."""
        return [label for label, name in enumerate(self.names) if has_word(name, word)]


def has_word(text: str, word: str) -> bool:
    """Whether ``text`` holds ``word`` (or a run of words) as a whole, in any case."""
    return re.search(rf'(?<!\w){re.escape(word)}(?!\w)', text, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Placed:
    """An object of a scene, as far as a caption can tell.

    Attributes:
        label: label of its class.
        size: ``small``, ``large`` or empty for neither.
        row: 0, 1 or 2 for a centre in the upper, middle or lower third of the image.
        column: 0, 1 or 2 for a centre in the left, middle or right third.
    """

    label: int
    size: str
    row: int
    column: int


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _noun_phrase(rng: np.random.Generator, name: str, article: str, adjective: str = '') -> str:
    words = f'{adjective} {name}'.strip()
    draw = rng.random()
    if draw < 0.12:
        return f'the {words}'
    if article == '-':
        return words
    if article == '+':
        return f'some {words}' if draw < 0.4 else words
    if draw < 0.2:
        return f'one {words}'
    return f'{"a" if adjective else article} {words}'


def _place_phrase(rng: np.random.Generator, placed: Placed) -> str:
    row, column = _ROWS[placed.row], _COLUMNS[placed.column]
    if row and column:
        return _pick(rng, (f'in the {row} {column} corner', f'at the {row} {column}'))
    if row:
        return _pick(rng, (f'at the {row}', f'on the {row} side'))
    if column:
        return _pick(rng, (f'on the {column}', f'on the {column} side'))
    return _pick(rng, ('in the middle', 'in the centre'))


def make_caption(
    rng: np.random.Generator,
    vocabulary: SceneVocabulary,
    placed: Sequence[Placed],
    texture: int,
    held_out: frozenset[int] = frozenset(),
) -> str:
    """Write a caption that names every object of a scene and, mostly, its texture.

    Args:
        rng: source of the choice of words.
        vocabulary: the classes.
        placed: the objects of the scene; without any, the caption is about the texture.
        texture: label of the texture.
        held_out: labels of classes that must not be named; such an object is passed over or
            called "something", such a texture is not mentioned.

    Returns:
        One line of lower case text.
    """
    if not placed:
        return _pick(rng, _TEXTURE_ALONE).format(g=_ground(vocabulary, texture, held_out))
    named = [p for p in placed if p.label not in held_out]
    entries: list[Placed] = [
        placed[i] for i in rng.permutation(len(placed)) if placed[i].label not in held_out
    ]
    hidden = [p for p in placed if p.label in held_out]
    if hidden and (not named or rng.random() < 0.5):
        entries.insert(int(rng.integers(len(entries) + 1)), hidden[0])

    phrases, be, located = [], 'is', False
    for place, entry in enumerate(entries):
        adjective = ''
        if entry.size and rng.random() < _SAY_SIZE:
            adjective = _pick(rng, _SIZES[entry.size])
        if entry.label in held_out:
            phrase = f'{_UNKNOWN} {adjective}'.strip()
        else:
            cls = vocabulary.objects[entry.label]
            phrase = _noun_phrase(rng, cls.name, cls.article, adjective)
            if place == 0 and cls.article == '+':
                be = 'are'
        if rng.random() < _SAY_PLACE:
            phrase = f'{phrase} {_place_phrase(rng, entry)}'
            located = True
        phrases.append(phrase)
    subject = phrases[-1]
    if len(phrases) > 1:
        subject = _pick(rng, _JOINERS).format(', '.join(phrases[:-1]), subject)

    omit = rng.random() < _OMIT_TEXTURE
    if omit or texture in held_out:
        return _pick(rng, _WITHOUT_TEXTURE).format(s=subject, be=be)
    where = _pick(rng, vocabulary.textures[texture - len(vocabulary.objects)].places)
    template = _pick(rng, _WITH_TEXTURE)
    if located:
        template = template.replace(' {t}', ', {t}')
    return template.format(s=subject, be=be, t=where, g=_ground(vocabulary, texture, held_out))


def _ground(vocabulary: SceneVocabulary, texture: int, held_out: frozenset[int]) -> str:
    if texture in held_out:
        return _UNKNOWN
    ground = vocabulary.textures[texture - len(vocabulary.objects)]
    return ground.name if ground.article in '-+' else f'{ground.article} {ground.name}'
