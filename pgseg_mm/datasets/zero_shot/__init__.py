"""Label maps to evaluate on, with classes from a vocabulary."""
