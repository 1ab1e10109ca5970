"""Classifiers."""

from .pgseg_classifier import PGSegClassifier

__all__ = ['PGSegClassifier']
