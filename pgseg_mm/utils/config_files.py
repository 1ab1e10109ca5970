"""Reading of configs that name folders by environment variables, and what follows from settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from mmengine.config import Config

FOLDERS = ('PGSEG_DATA_ROOT', 'PGSEG_CACHE')
"""Environment variables that stand in the configs."""
NOT_PLAIN = re.compile(r'[\'"\\\n\r]')


def read_config_file(path: str | PathLike[str]) -> Config:
    """Read a config; the folders that environment variables name may be called anything.

    MMEngine puts them into the text of a config as they are, which quotes would take apart.

    Args:
        path: The file.
    """
    with _escaped_folders():
        return Config.fromfile(path)


def follow_settings(cfg: Config) -> None:
    """Change what follows from settings that were overridden: without workers none persist.

    Args:
        cfg: The config, changed in place.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader and loader.get('num_workers') == 0:
            loader.persistent_workers = False
            loader.pop('prefetch_factor', None)


@contextmanager
def _escaped_folders() -> Iterator[None]:
    kept = {name: os.environ[name] for name in FOLDERS if name in os.environ}
    try:
        for name, value in kept.items():
            # once for the text of the config, and once for the template that it is put in by
            os.environ[name] = NOT_PLAIN.sub(lambda sign: rf'\\x{ord(sign.group()):02x}', value)
        yield
    finally:
        os.environ.update(kept)
