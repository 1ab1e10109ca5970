"""What tests of the web demo share."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = 'dog . cat'
