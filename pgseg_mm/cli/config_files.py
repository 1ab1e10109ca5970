"""Reading of configs that name folders by environment variables, and what follows from settings."""

from __future__ import annotations

import argparse
import ast
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from pgseg_mm.integration import environment, import_from, plain_yaml
from pgseg_mm.messages import first_line, quoted, shown

FOLDERS = ('PGSEG_DATA_ROOT', 'PGSEG_CACHE')
"""Environment variables that stand in the configs."""
NOT_PLAIN = re.compile(r'[\'"\\\n\r]')


NOT_MMENGINES = re.compile(r'\s|[\'"]|\{[^{}]*,[^{}]*\}')
"""In a value, what mmengine's parser would leave out or take apart."""
BRACES = re.compile(r'\{[^{}]*\}')


CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


class ConfigError(ValueError):
    """A config cannot be read, or a setting does not fit it."""


class SettingsAction(DictAction):
    """mmengine's action for ``--cfg-options``, which refuses what it cannot read in a sentence.

    Beyond what mmengine reads, a value with blanks, quotes, or commas in braces is kept: what
    Python would read as a literal, such as ``["a photo of a {}."]``, and single words with blanks.
    """

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Read a value; mmengine would leave out its blanks and split it at all of its commas."""
        val = val.strip()
        if not NOT_MMENGINES.search(val):
            return DictAction._parse_iterable(val)
        try:
            found = ast.literal_eval(val)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = ...
        if isinstance(found, tuple) and val[0] != '(':
            return list(found)
        if found is None or isinstance(found, (list, tuple, dict, str, int, float)):
            return found
        rest = BRACES.sub('', val)
        if not re.search(r'[\[\](),\'"]', rest):
            return val
        if rest == val and not re.search(r'[^\s,(\[]\s+[^\s,)\]]', val):  # "[a, b]"
            return DictAction._parse_iterable(re.sub(r'\s+', '', val))
        raise ValueError(f'{val} has blanks or commas within a word')

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Parse the settings, or leave with the usage message of the parser."""
        for value in values:
            if not re.match(r'[^=\s]+=', value):
                parser.error(f'{option_string} takes KEY=VALUE, got {quoted(value)}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError, RecursionError) as error:
            parser.error(
                f'{option_string}: {quoted(" ".join(values))} cannot be read '
                f'({type(error).__name__}); values are numbers, words, and lists of them such as '
                'key="[a,b]"; a word with blanks or commas in a list needs quotes, such as '
                'key=\'["a photo of a {}.","{}"]\'; a part of a list is set by its number, such as '
                'custom_hooks.0.type=EMAHook'
            )


def read_config_file(path: str | PathLike[str]) -> Config:
    """Read a config; the folders that environment variables name may be called anything.

    MMEngine puts them into the text of a config as they are, which quotes would take apart. A
    config that lies in a folder ``projects`` can import modules as ``projects.NAME``.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigError: It is no config, or fails when it is run.
    """
    if Path(path).is_file() and Path(path).suffix not in CONFIG_SUFFIXES:
        suffixes = ', '.join(CONFIG_SUFFIXES)
        raise ConfigError(f'config {shown(path)} does not end in any of {suffixes}')
    for folder in Path(path).resolve().parents:
        if folder.name == 'projects':
            import_from(str(folder.parent))
            break  # not also what the clone itself lies in, such as ~/projects
    with plain_folders(), plain_yaml():
        try:
            return Config.fromfile(path)
        except Exception as error:  # a config is a program, and fails in any way
            if not Path(path).is_file():
                raise
            raise ConfigError(
                f'config {shown(path)} cannot be read: {_reason(error)}{_line_of(error, path)}'
            ) from error


def override(cfg: Config, settings: Mapping[str, Any] | None) -> None:
    """Change settings of a config, and what follows from them.

    Args:
        cfg: The config, changed in place.
        settings: Values by their dotted names, as ``--cfg-options`` has them.

    Raises:
        ConfigError: A name leads into something that has no parts.
    """
    try:
        cfg.merge_from_dict(dict(settings or {}))
    except (TypeError, KeyError, AttributeError, AssertionError) as error:
        names = ', '.join(shown(name) for name in list(settings or {})[:5])
        raise ConfigError(
            f'--cfg-options ({names}) does not fit the config: {_reason(error)}'
        ) from error
    follow_settings(cfg)


def _reason(error: Exception) -> str:
    """Kind and text of an error; a syntax error without the name of a temporary file."""
    text = error.msg if isinstance(error, SyntaxError) else first_line(error)
    return f'{type(error).__name__}: {text}'


def _line_of(error: Exception, path: str | PathLike[str]) -> str:
    """Where a config fails, if that is known."""
    if isinstance(error, SyntaxError):
        return f' (line {error.lineno})' if error.lineno else ''
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename in (str(path), '<string>')
    ]
    return f' (line {lines[-1]})' if lines else ''


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
def plain_folders() -> Iterator[None]:
    """Have mmengine put the folders of :data:`FOLDERS` into configs whatever they are called."""
    # once for the text of the config, and once for the template that it is put in by
    escaped = {
        name: NOT_PLAIN.sub(lambda sign: rf'\\x{ord(sign.group()):02x}', os.environ[name])
        for name in FOLDERS
        if name in os.environ
    }
    with environment(escaped):
        yield
