"""Region contrast for models that have queries and masks."""

from .query_groups import QueryGroups

__all__ = ['QueryGroups']
