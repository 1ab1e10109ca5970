"""Configs whose text is left as it is written."""

from contextlib import AbstractContextManager
from unittest import mock


def unformatted() -> AbstractContextManager:
    """Keep mmengine from laying out the text of configs, again for each checkpoint of a run.

    The text is the same Python. To lay it out takes most of the time of a run of the tests.
    """

    def as_written(text: str, **_: object) -> tuple[str, bool]:
        return f'{text.rstrip()}\n', True  # it ends a line, as laid out text does

    return mock.patch('yapf.yapflib.yapf_api.FormatCode', as_written)
