"""What a file or a request from elsewhere may ask for at most.

Every limit of the project is here. A program may set another value, such as
``pgseg_mm.limits.CHECKPOINT_PICKLE_BYTES = 2**30``, before it reads anything.
"""

# Checkpoints

CHECKPOINT_CHOSEN_KEYS = 1024
"""Keys of a mapping or a set, beyond which there are none whose hashes a file can choose: tuples,
fractions and large numbers. Finding one among others of the same hash takes a look at each."""

CHECKPOINT_DEPTH = 64
"""Containers within containers: what walks through a checkpoint must not exhaust the stack."""

CHECKPOINT_DIRECTORY_BYTES = 16 * 2**20
"""Bytes of the directory of a checkpoint's zip archive, which is read in one piece."""

CHECKPOINT_KEY_LENGTH = 16
"""Values in a tuple that is the key of a mapping: its hash is computed again with each use."""

CHECKPOINT_OPCODES = 1_000_000
"""Opcodes of a checkpoint's pickle, each of which may cost up to 250 bytes of memory."""

CHECKPOINT_PICKLE_BYTES = 200 * 10**6
"""Bytes of a checkpoint's pickle, all of it but the tensors. Logged values may take half."""

CHECKPOINT_REPEATED_ELEMENTS = 2**16
"""Elements of a tensor that has more of them than are stored, as an expanded one has."""

CHECKPOINT_TOTAL_ENTRIES = 20_000_000
"""Entries of all containers, where one that is used twice counts twice."""

CONFIG_ENTRIES = 100_000
"""Entries of the config object in a release's checkpoint, which is read for the number of heads."""

CONFIG_TEXT_CHARACTERS = 2**20
"""Characters of the config's text in a checkpoint, which is parsed and never run."""

EMPTY_ENTRIES = 2**20
"""Entries of an array of a NumPy file, beyond one for each byte of it: sides beside one of length 0
cost nothing in the file, and much where the array becomes a list."""

MAX_UNPACKED_ARRAYS = 10**9
"""Bytes of the arrays of an .npz file, beyond twice those of the file."""

SAFETENSORS_HEADER_BYTES = 16 * 2**20
"""Bytes of the header of a safetensors file."""

STATE_FILE_BYTES = 16 * 2**20
"""Bytes of a small file that a tool keeps for itself, such as the results of a benchmark."""

# Images

MAX_IMAGE_PIXELS = 100_000_000
"""Pixels of an image or a label map at most, wherever nothing else is said: a few bytes may unpack
to as many, and ten bytes of memory are needed for each. Above 179 million
``PIL.Image.MAX_IMAGE_PIXELS`` has to be raised, too."""

SHARE_OF_PIXELS = {'WEBP': 0.5, 'AVIF': 0.5}
"""Share of such a limit that counts for formats whose decoders take twice the memory."""

MAX_PAIR_PIXELS = 2**26
"""Pixels of an image of a training pair at most: 8192 x 8192."""

MAX_JPEG_SCANS = 100
"""Scans of a JPEG image. A progressive one has some ten, each of which costs the decoder the whole
image, however few bytes it has."""

MAX_IMAGE_BYTES = 2**30
"""Bytes of an image's file at most; no more is read of a longer one, or of an endless device."""

MAX_TILE_PIXELS = 2**22
"""Pixels of a tile of a TIFF file at most, unless the image itself has as many: libtiff makes room
for a whole tile, however small the image."""

# Words

MAX_TEXT_LETTERS = 2**16
"""Letters of a caption or prompt at most that are tokenised; what is behind them is cut."""

MAX_TEMPLATES = 1000
"""Prompt templates of a set; CLIP's have 80."""
MAX_TEMPLATE_LETTERS = 1000
"""Letters of a prompt template."""

MAX_NOUN_LETTERS = 2**13
"""Letters of a caption at most in which nouns or names are looked for."""

MAX_TOKEN_CACHE = 2**16
"""Words whose tokens open_clip's tokenizer keeps at most; by itself it keeps all it has seen."""

MAX_KNOWN_TEXTS = 2**14
"""Captions and prompts whose tokens are kept, the latest; they take about 10 MB."""
MAX_KNOWN_LETTERS = 2**8
"""Letters of such a text at most."""

# Web

MAX_WEB_PIXELS = 50_000_000
"""Pixels of an upload to the web demo at most."""

MAX_WEB_WORKING_PIXELS = 2**22
"""Pixels above which the web demo makes an upload smaller before it segments it."""

MAX_WEB_FILE_BYTES = 20_000_000
"""Bytes of an upload to the web demo at most, unless ``--max-file-size`` says otherwise."""

MAX_WEB_UPLOAD_BYTES = 10**9
"""Bytes of all uploads and pictures of a web demo together."""

MAX_WEB_UPLOAD_FILES = 10_000
"""Files of all uploads and pictures of a web demo together."""

MAX_WEB_UPLOAD_AGE = 3600
"""Seconds after which an upload to the web demo is removed."""

MIN_WEB_UPLOAD_AGE = 300
"""Seconds for which an upload is kept, though room for others is needed."""

MAX_WEB_REQUEST_BYTES = 2**16
"""Bytes of a request to the web demo that is no upload."""

MAX_WEB_WORDS = 300
"""Words of a request to the web demo."""

MAX_WEB_WORD_LETTERS = 200
"""Letters of a word in a request to the web demo."""

MAX_WEB_LETTERS = 10_000
"""Letters of all words of a request to the web demo."""

MAX_WEB_QUEUE = 40
"""Requests that wait at a web demo for their turn."""

MAX_WEB_CONNECTIONS = 400
"""Requests that are open at a web demo at a time; a page that is looked at keeps one or two."""

MAX_WEB_ABSENCE = 3
"""Seconds after a request within which its client must listen for the result."""

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
MAX_SHOWN_SENTENCE = 160
"""The same of what an error says."""

RETRY_PAUSES = (0.2, 1.0, 3.0)
"""Seconds before a file is tried again that the system could not read."""
