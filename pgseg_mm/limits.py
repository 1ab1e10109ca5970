"""What a file or a request from elsewhere may ask for at most.

Every limit of the project is here. A program may set another value, such as
``pgseg_mm.limits.CHECKPOINT_PICKLE_BYTES = 2**30``, before it reads anything.
"""

# Checkpoints

CHECKPOINT_DEPTH = 64
"""Containers within containers: what walks through a checkpoint must not exhaust the stack."""

CHECKPOINT_DIRECTORY_BYTES = 16 * 2**20
"""Bytes of the directory of a checkpoint's zip archive, which is read in one piece."""

CHECKPOINT_KEY_LENGTH = 16
"""Values in a tuple that is the key of a mapping: its hash is computed again with each use."""

CHECKPOINT_OPCODES = 1_000_000
"""Opcodes of a checkpoint's pickle, each of which may cost up to 250 bytes of memory."""

CHECKPOINT_PICKLE_BYTES = 200 * 10**6
"""Bytes of a checkpoint's pickle, which is all of it but the tensors."""

CHECKPOINT_REPEATED_ELEMENTS = 2**16
"""Elements of a tensor that has more of them than are stored, as an expanded one has."""

CHECKPOINT_TOTAL_ENTRIES = 20_000_000
"""Entries of all containers, where one that is used twice counts twice."""

CONFIG_ENTRIES = 100_000
"""Entries of the config object in a release's checkpoint, which is read for the number of heads."""

CONFIG_TEXT_CHARACTERS = 2**20
"""Characters of the config's text in a checkpoint, which is parsed for the number of heads."""

SAFETENSORS_HEADER_BYTES = 16 * 2**20
"""Bytes of the header of a safetensors file."""

STATE_FILE_BYTES = 16 * 2**20
"""Bytes of a small file that a tool keeps for itself, such as the results of a benchmark."""
