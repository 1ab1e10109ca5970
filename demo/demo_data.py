"""The demo's data: captioned emoji scenes, made by this repository's converter."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from pgseg_mm.serialization.atomic_files import read_state

CONVERTER = Path(__file__).resolve().parents[1] / 'tools/dataset_converters/emoji_scenes.py'
ATTRIBUTION = (
    'Objects: OpenMoji (openmoji.org), CC BY-SA 4.0, altered; textures: scikit-image, CC0. '
    'This picture: CC BY-SA 4.0.'
)


@dataclass(frozen=True)
class Scenes:
    """Size of the data set, whether its captions are shuffled, and its seed."""

    num_train: int = 16000
    num_val: int = 200
    num_classes: int = 20
    image_size: int = 64
    shuffle_captions: bool = False
    seed: int = 0

    def folder(self, data: Path) -> Path:
        """Where the scenes lie: the shuffled ones beside the others."""
        return data.with_name(f'{data.name}_shuffled') if self.shuffle_captions else data

    def arguments(self, data: Path) -> list[str]:
        """Arguments of the converter."""
        sizes = asdict(self)
        shuffle = ['--shuffle-captions'] if sizes.pop('shuffle_captions') else []
        options = [f'--{name.replace("_", "-")}={size}' for name, size in sizes.items()]
        return [str(self.folder(data)), *options, *shuffle, '--overwrite']


def ensure_scenes(scenes: Scenes, data: Path) -> None:
    """Make the data set, unless it is there with the same settings.

    Args:
        scenes: Size of the data set.
        data: Folder of the data set with right captions.

    Raises:
        SystemExit: If the converter refuses; it has said why.
    """
    folder = scenes.folder(data)
    if _is_made(scenes, data):
        print(f'Data: {folder} is there with the same settings.', flush=True)
        return
    print(f'Data: making {folder} ...', flush=True)
    made = subprocess.run(
        [sys.executable, str(CONVERTER), *scenes.arguments(data), f'--workers={os.cpu_count()}'],
        check=False,
    )
    if made.returncode:
        raise SystemExit(made.returncode)


def _is_made(scenes: Scenes, data: Path) -> bool:
    meta_file = scenes.folder(data) / 'meta.json'
    if not meta_file.is_file():
        return False
    if str(CONVERTER.parent) not in sys.path:
        sys.path.append(str(CONVERTER.parent))
    wanted, _ = importlib.import_module(CONVERTER.stem).parse_args(scenes.arguments(data))
    found = read_state(meta_file, 'the scenes are made anew')
    # through JSON, which has lists for tuples
    return found is not None and json.loads(json.dumps(asdict(wanted))).items() <= found.items()
