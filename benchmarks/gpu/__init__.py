"""The stages of the GPU check; ``benchmarks/gpu_check.py`` runs them one after the other."""
