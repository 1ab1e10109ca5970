"""Configs as text in strangers' files: literals are read, nothing is run."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from pgseg_mm import limits
from pgseg_mm.messages import shown
from pgseg_mm.serialization.loading import CheckpointError


class ConfigText(NamedTuple):
    """What a config's text says."""

    values: dict[str, Any]
    """What is assigned, of plain values."""
    skipped: tuple[str, ...]
    """Lines that only running them would understand; they were not run."""


def read_config_text(text: Any) -> ConfigText:
    """Read the text of a config, as mmengine writes it into checkpoints, without running it.

    Args:
        text: Assignments of literals and of ``dict(...)``, whose last one counts.

    Raises:
        CheckpointError: If it is no text, too long, too deep, or no Python.
    """
    if not isinstance(text, str):
        raise CheckpointError(f'the config must be text, got {type(text).__name__}')
    if len(text) > limits.CONFIG_TEXT_CHARACTERS:
        raise CheckpointError(
            f'the config has {len(text)} characters, at most {limits.CONFIG_TEXT_CHARACTERS} are '
            'read'
        )
    values: dict[str, Any] = {}
    skipped = []
    try:
        for statement in ast.parse(text).body:
            names = _names(statement)
            for name in names:
                values.pop(name, None)
            try:
                value = _literal(getattr(statement, 'value', None)) if names else None
            except ValueError:
                names = []
            if names:
                values.update(dict.fromkeys(names, value))
            else:
                skipped.append(f'line {statement.lineno}')
    except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise CheckpointError(f'the config cannot be read ({shown(reason)})') from error
    return ConfigText(values, tuple(skipped))


def _names(statement: ast.stmt) -> list[str]:
    """What a plain assignment assigns to, or nothing."""
    if not isinstance(statement, ast.Assign):
        return []
    return [target.id for target in statement.targets if isinstance(target, ast.Name)]


def _literal(node: Any) -> Any:
    """Value of literals and ``dict(...)`` calls of them.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        if any(item.arg is None for item in node.keywords):
            raise ValueError('dict(**...) is no literal')
        try:
            result = dict(*map(_literal, node.args))
        except TypeError as error:
            raise ValueError(str(error)) from error
        return result | {str(item.arg): _literal(item.value) for item in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_literal(key) for key in node.keys if key is not None]
        if not all(isinstance(key, (str, int, float, bool)) for key in keys):
            raise ValueError('keys must be plain')
        return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    return ast.literal_eval(node)
