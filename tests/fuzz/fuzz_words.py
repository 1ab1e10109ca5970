"""Hostile words: texts of any letters and lengths, as words of a page, as captions, as classes."""

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pgseg_mm.apis import parse_words
from pgseg_mm.text import tokenize
from pgseg_mm.text.words import make_vocabulary, with_background
from pgseg_mm.visualization.text import shorten

sys.path.append(str(Path(__file__).parents[2] / 'demo'))


class NotTaken(Exception):
    """The right answer to a text that is none in any way."""


PIECES = (
    'dog', 'cat', ' . ', ', ', ';', '\n', '\t', '.', ' ', '\0', '\x1b[31m', '\ufeff', '\u202e',
    '😂', '你好',
    'Ã©', '&amp;', '&#x41;', '&#1114112;', '&CounterClockwiseContourIntegral;', '<script>',
    '</td>', '{}',
    '%s', '$(id)', '../', 'http://127.0.0.1/', '<start_of_text>', '<end_of_text>', "'s", '́',
    '\u200b', 'İ',
    'background', 'ß', '0', '{0.__class__}', '\\N{BULLET}', '\udcff',
)  # fmt: skip
REFUSALS = (NotTaken,)
LENGTHS = (0, 1, 2, 10, 100, 1000, 20_000, 200_000)


def cases(seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and texts, in UTF-8 with surrogates, without an end."""
    rng = random.Random(seed)
    for number in itertools.count():
        length = rng.choice(LENGTHS[: rng.choice((5, 6, 8))])
        kind = rng.choice(('letters', 'pieces', 'one piece', 'any'))
        if kind == 'letters':
            text = ''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=length))
        elif kind == 'pieces':
            text = ''.join(rng.choices(PIECES, k=min(length, 20_000)))
        elif kind == 'one piece':
            text = rng.choice(PIECES) * min(length, 50_000)
        else:
            text = ''.join(chr(rng.randrange(0x110000)) for _ in range(min(length, 20_000)))
        yield f'{number} {kind} {length}', text.encode('utf-8', 'surrogatepass')


def prepare() -> None:
    """Import and warm up what the attempts use."""
    take_in_all_ways(b'dog . cat')


def attempt(path: str) -> None:
    """Take the content of a file for words; see :func:`take_in_all_ways`.

    Raises:
        NotTaken: It was taken in no way.
    """
    if not take_in_all_ways(Path(path).read_bytes()):
        raise NotTaken


def take_in_all_ways(content: bytes) -> int:
    """Take a text for words and for a caption.

    Returns:
        In how many ways that went well.

    Raises:
        Exception: Whatever is raised that is no ``ValueError`` with a short message.
    """
    from web_demo import read_words

    text = content.decode('utf-8', 'surrogatepass')
    ways: list[Callable[[], object]] = [
        lambda: tokenize(text),
        lambda: with_background(make_vocabulary(parse_words(text)), True),
        lambda: read_words(text),
        lambda: shorten(text, 12, 80),
    ]
    well = 0
    for way in ways:
        try:
            way()
            well += 1
        except UnicodeEncodeError:  # half a surrogate pair, which no file or request can hold
            assert any('\ud800' <= letter <= '\udfff' for letter in text)
        except ValueError as error:
            assert len(str(error)) < 600, str(error)[:200]
    return well
