"""In which order a run reads, from which seeds, and where it goes on."""
