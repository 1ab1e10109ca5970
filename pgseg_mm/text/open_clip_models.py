"""The names that open_clip knows its models by."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import open_clip

from pgseg_mm.errors import ModelUnavailableError
from pgseg_mm.messages import first_line

_HUB = 'hf-hub:'
"""What names of models on a hub begin with."""


def find_open_clip_model(model_name: str) -> tuple[str, dict[str, Any]]:
    """Look up a model of open_clip.

    Args:
        model_name: A name that ``open_clip.list_models()`` lists, such as ``ViT-B-32`` (or
            ``ViT-B/32``), or the place of an open_clip model: ``local-dir:FOLDER`` or
            ``hf-hub:ORGANISATION/REPOSITORY``.

    Returns:
        The name as open_clip spells it and the config of the architecture.

    Raises:
        ValueError: There is no such name.
        ModelUnavailableError: The model of a hub cannot be had.
    """
    name = model_name if ':' in model_name else model_name.replace('/', '-')
    try:
        config = open_clip.get_model_config(name)
    except (OSError, ValueError) as error:
        if not name.startswith(_HUB):
            raise
        raise ModelUnavailableError(
            f'The config of {name} could not be had: {first_line(error)}\n'
            'An open_clip model on the hub has a file open_clip_config.json. Without a network, '
            'what was downloaded before is taken.'
        ) from error
    if config is None:
        close = get_close_matches(name, open_clip.list_models(), n=5)
        hint = f'did you mean {", ".join(close)}? ' if close else ''
        raise ValueError(
            f'open_clip has no model {model_name!r}; {hint}'
            'open_clip.list_models() lists all names, open_clip.add_model_config adds one.'
        )
    return name, config
