"""Checkpoints: read without running what they hold, and written whole or not at all."""
