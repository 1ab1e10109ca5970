"""Where the windows of an image lie that is predicted in pieces."""

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


def sliding_windows(
    image_size: tuple[int, int], window_size: tuple[int, int], stride: tuple[int, int]
) -> list[Window]:
    """Windows of mmseg's sliding inference, row by row.

    The last window of a row or column is moved back to end with the image; an image smaller than
    the window is one window as it is.

    Args:
        image_size: (height, width) in pixels, as all sizes here.
        window_size: Size of a window.
        stride: Distance of windows.
    """
    tops, lefts = (
        [
            min(i * step, max(length - size, 0))
            for i in range(1 + max(-(-(length - size) // step), 0))
        ]
        for length, size, step in zip(image_size, window_size, stride, strict=True)
    )
    return [
        Window(
            top,
            left,
            min(top + window_size[0], image_size[0]),
            min(left + window_size[1], image_size[1]),
        )
        for top in tops
        for left in lefts
    ]
