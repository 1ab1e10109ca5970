"""Configs whose text is left as it is written."""

from contextlib import AbstractContextManager
from unittest import mock


def unformatted() -> AbstractContextManager:
    """Keep mmengine from laying out the text of configs, again for each checkpoint of a run.

    The text is the same Python. To lay it out takes most of the time of a run of the tests.
    """
    return mock.patch('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (f'{text}\n', True))
