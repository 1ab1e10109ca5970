"""What turns groups into masks of whole images: windows, stitching, words and their embeddings."""
