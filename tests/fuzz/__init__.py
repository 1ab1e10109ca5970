"""Attacks on what reads files and requests of strangers: ``python tests/fuzz --help``."""
