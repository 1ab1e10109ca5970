class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is not what was expected."""
