"""The rooms of the package import what docs/design.md allows."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from page_checks import DESIGN, PACKAGE, prose
from pages import CODE, ROOT


def imported(file: Path) -> set[str]:
    """Modules of the package that a file of it imports, by their full names."""
    package = file.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f'{module}.{alias.name}' for alias in node.names}
    return {name for name in found if name.startswith('pgseg_mm.')}


def room(parts: list[str]) -> str | None:
    """Room of a module by the parts of its name below the package; None outside of all rooms."""
    inner = '/'.join(parts[:2])
    if parts[:1] == ['models'] and len(parts) > 1 and (PACKAGE / inner).is_dir():
        return inner
    return parts[0] if parts and (PACKAGE / parts[0]).is_dir() else None


def imports_between_rooms() -> set[tuple[str, str]]:
    edges = set()
    for file in PACKAGE.rglob('*.py'):
        here = room(list(file.relative_to(PACKAGE).with_suffix('').parts))
        there = {room(name.split('.')[1:]) for name in imported(file)}
        edges |= {(here, other) for other in there - {here, None} if here is not None}
    return edges


def allowed_imports(page: Path) -> dict[str, set[str]]:
    """The table of docs/design.md: a room, and the rooms that it may import."""
    rows = re.findall(r'^\| `([\w/]+)/` \| [^|]* \| ([^|]*) \|$', prose(page), re.MULTILINE)
    return {name: {other.rstrip('/') for other in CODE.findall(cell)} for name, cell in rows}


def test_rooms_import_what_the_design_allows():
    allowed = allowed_imports(DESIGN)
    rooms = {
        folder.relative_to(PACKAGE).as_posix()
        for parent in (PACKAGE, PACKAGE / 'models')
        for folder in parent.iterdir()
        if (folder / '__init__.py').is_file()
    }
    assert allowed.keys() == rooms
    models = {name for name in rooms if name.startswith('models/')}
    allowed['models'] |= models  # it gathers what they export
    TopologicalSorter(allowed).prepare()  # refuses a circle
    permitted = {
        (here, there)
        for here, others in allowed.items()
        for there in others | (models if 'models' in others else set())
    }
    found = imports_between_rooms()
    assert len(found) > 20
    assert sorted(found - permitted) == []
