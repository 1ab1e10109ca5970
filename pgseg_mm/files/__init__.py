"""Opening files of unknown origin: faults of a file are told apart from those of the system."""
