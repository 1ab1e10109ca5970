"""Retrievers."""

from .pgseg_retriever import PGSegRetriever

__all__ = ['PGSegRetriever']
