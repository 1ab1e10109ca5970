"""What developers measure; each is run as ``python -m benchmarks.NAME`` from the checkout."""
