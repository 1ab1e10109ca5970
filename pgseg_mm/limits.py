"""Limits on what files and requests of strangers may cost, all in one place."""

# Training data
MAX_MEMBER_BYTES = 2**28
"""Bytes of an image in a tar shard or beside an annotation file; 256 MiB hold an uncompressed
picture of 8192 x 8192 pixels."""
MAX_TEXT_MEMBER_BYTES = 2**22
"""Bytes of a caption, as text or in JSON, in a tar shard or beside an image."""
MAX_TAR_HEADER_BYTES = 2**14
"""Bytes of an extended header of a tar member, which holds its long name and its attributes."""
MAX_PATH_CHARACTERS = 4096
"""Characters of a path in an annotation file and of a name in a tar shard, as Linux has it."""
MAX_UNPACKING = 100
"""How many times its size a compressed shard may unpack to, beyond :data:`UNPACKING_ALLOWANCE`."""
UNPACKING_ALLOWANCE = 2**26
"""Bytes that any compressed shard may unpack to."""
MAX_XZ_MEMORY = 2**27
"""Bytes that the decoder of a shard in xz format may take for its dictionary."""
HELD_ALLOWANCE = 2**29
"""Bytes that the samples of a block may take in memory, beyond twice the size of their shard. Only
what was compressed can take more."""
MAX_ROW_CHARACTERS = 2**22
"""Characters of a row of an annotation file, or of an entry of a JSON list."""
MAX_PARQUET_ROWS = 2**20
"""Rows of a Parquet file, beyond one for each of its bytes: run lengths cost nothing."""
MAX_PARQUET_BATCH_BYTES = 2**28
"""Bytes of the rows of a Parquet file that are held at a time."""
MAX_STATS_BYTES = 2**20
"""Bytes of a ``*_stats.json`` beside a shard."""
MAX_VOCABULARY_BYTES = 2**24
"""Bytes of a vocabulary file."""
MAX_SHOWN_CHARACTERS = 80
"""Characters at either end of a name or a value that a message shows."""
RETRY_PAUSES = (0.2, 1.0, 3.0)
"""Seconds before a file is tried again that the system could not read."""
