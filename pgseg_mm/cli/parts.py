"""Parts of a config by their ``type``: a registered name, with a scope or without, or a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry


def type_name(part: Mapping[str, Any] | None, default: str = '') -> str:
    """Name of the class or function that a part of a config is built by, without its scope.

    Args:
        part: A part with ``type``: a name such as ``'mmseg.IoUMetric'``, or, in a config of
            mmengine's pure Python style, the class itself.
        default: What to give for a part without a type.

    Returns:
        The name, such as ``'IoUMetric'``.
    """
    kind = (part or {}).get('type', default)
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return name.rpartition('.')[2]


def type_of(part: Mapping[str, Any], registry: Registry) -> Any:
    """Class that a part of a config is built by.

    Args:
        part: A part with ``type``, a name or the class itself.
        registry: Where names are looked up.

    Returns:
        The class, or ``None`` if no class has the name.
    """
    kind = part['type']
    return registry.get(kind) if isinstance(kind, str) else kind


def is_kind(part: Any, registry: Registry, kind: type) -> bool:
    """Whether a part of a config, or an object that was built of one, is of a class.

    Args:
        part: The part, or the object.
        registry: Where names are looked up.
        kind: The class.
    """
    if not isinstance(part, Mapping):
        return isinstance(part, kind)
    found = type_of(part, registry) if 'type' in part else None
    return isinstance(found, type) and issubclass(found, kind)
