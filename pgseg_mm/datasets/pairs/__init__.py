"""Image-text pairs to train on: in annotation files, folders and tar shards."""
