"""What is written on pictures, and where."""

from typing import NamedTuple

import pytest
from PIL import ImageDraw


class Written(NamedTuple):
    """A text on a picture."""

    text: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    """Of the picture or panel that it was written on."""

    @property
    def is_whole(self) -> bool:
        """Whether no letter is beyond the picture's edge."""
        left, top, right, bottom = self.box
        return left >= 0 and top >= 0 and right <= self.size[0] and bottom <= self.size[1]


def record_text(monkeypatch: pytest.MonkeyPatch) -> list[Written]:
    """Collect what Pillow writes from now on."""
    written: list[Written] = []
    write = ImageDraw.ImageDraw.text

    def text(draw, place, text, fill=None, font=None, **kwargs):
        if text:
            box = draw.textbbox(place, text, font=font, anchor=kwargs['anchor'])
            written.append(Written(text, box, draw.im.size))
        write(draw, place, text, fill=fill, font=font, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', text)
    return written
