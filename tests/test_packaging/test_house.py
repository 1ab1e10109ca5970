"""Files and functions are short, private names stay at home, and a name means one thing."""

import ast
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ('pgseg_mm', 'tools', 'benchmarks', 'demo', 'projects', 'configs', 'tests', 'setup.py')
FILE_LINES = 400
FUNCTION_LINES = 60


def tracked() -> list[str]:
    """Paths of the Python files from the repository's root, without what git ignores."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '--', *FOLDERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f'this is no clone of the repository: {done.stderr.strip()}')
    paths = [path for path in done.stdout.splitlines() if path.endswith('.py')]
    return sorted(path for path in paths if (ROOT / path).is_file())


@lru_cache(maxsize=1)
def read() -> dict[str, str]:
    """Texts of the files by their paths."""
    return {path: (ROOT / path).read_text(encoding='utf-8') for path in tracked()}


def long_files(texts: dict[str, str]) -> list[str]:
    lengths = {path: len(text.splitlines()) for path, text in texts.items()}
    return [f'{path}: {lines} lines' for path, lines in lengths.items() if lines > FILE_LINES]


def long_functions(texts: dict[str, str]) -> list[str]:
    found = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found.append(f'{path}: {node.name} has {lines} lines')
    return found


def module_names(path: str) -> set[str]:
    """Names by which other files may import a file: from the root, and from its own folder."""
    parts = PurePosixPath(path).with_suffix('').parts
    if parts[-1] == '__init__':
        parts = parts[:-1]
    return {'.'.join(parts), parts[-1]} if parts[0] != 'pgseg_mm' else {'.'.join(parts)}


def is_private(name: str) -> bool:
    return name.startswith('_') and not name.endswith('__')


def absolute(node: ast.ImportFrom, path: str) -> str:
    """Module that a relative or absolute import names."""
    if not node.level:
        return node.module or ''
    folder = PurePosixPath(path).parent.parts
    return '.'.join([*folder[: len(folder) - node.level + 1], *filter(None, [node.module])])


def imported_modules(tree: ast.AST, path: str, homes: dict[str, set[str]]) -> dict[str, str]:
    """Modules of the project by the names, dotted as they are written, that a file has for them."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in homes:
                    found[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = f'{absolute(node, path)}.{alias.name}'
                if module in homes:
                    found[alias.asname or alias.name] = module
    return found


def borrowed_names(texts: dict[str, str]) -> list[str]:
    """Private names that a file takes from a module of another folder."""
    homes: dict[str, set[str]] = defaultdict(set)
    for path in texts:
        for name in module_names(path):
            homes[name].add(str(PurePosixPath(path).parent))

    def is_foreign(module: str, path: str) -> bool:
        return module in homes and str(PurePosixPath(path).parent) not in homes[module]

    found = []
    for path, text in texts.items():
        tree = ast.parse(text)
        modules = imported_modules(tree, path, homes)
        for node in ast.walk(tree):
            for module, name in uses(node, path, modules):
                if is_private(name) and is_foreign(module, path):
                    found.append(f'{path}: {module}.{name}')
    return found


def uses(node: ast.AST, path: str, modules: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Modules and the names in them that a piece of code uses, as far as it spells them out."""
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield absolute(node, path), alias.name
    elif isinstance(node, ast.Attribute):
        yield modules.get(ast.unparse(node.value), ''), node.attr
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(('setattr', 'getattr')):
        texts = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args[:2]]
        if len(texts) == 2 and isinstance(texts[1], str):  # setattr(module, 'name', ...)
            yield modules.get(ast.unparse(node.args[0]), ''), texts[1]
        if texts and isinstance(texts[0], str):  # monkeypatch.setattr('module.name', ...)
            module, _, name = texts[0].rpartition('.')
            yield module, name


def definitions(tree: ast.Module) -> set[str]:
    """Public functions, classes and constants of a module, without its type variables."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            value = node.value
            if isinstance(value, ast.Call) and ast.unparse(value.func) in ('TypeVar', 'ParamSpec'):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = (inner for target in targets for inner in ast.walk(target))
            found |= {
                inner.id
                for inner in stored
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
            }
    return {name for name in found if not name.startswith('_')}


def shared_names(texts: dict[str, str]) -> list[str]:
    """Public names that several modules define."""
    homes = defaultdict(list)
    for path, text in texts.items():
        for name in definitions(ast.parse(text)):
            homes[name].append(path)
    return [f'{name}: {", ".join(paths)}' for name, paths in homes.items() if len(paths) > 1]


def test_no_file_is_too_long_to_be_read_in_one_go():
    assert long_files(read()) == []


def test_no_function_is_longer_than_a_page():
    assert long_functions(read()) == []


def test_private_names_stay_in_their_folder():
    assert borrowed_names(read()) == []


def test_a_public_name_of_the_package_means_one_thing():
    package = {path: text for path, text in read().items() if path.startswith('pgseg_mm/')}
    assert len(package) > 100
    assert shared_names(package) == []


def test_long_files_and_functions_are_found():
    fits = 'def f():\n' + '    pass\n' * (FUNCTION_LINES - 1)
    assert long_functions({'a.py': fits}) == []
    assert long_functions({'a.py': fits + '    pass\n'}) == ['a.py: f has 61 lines']
    assert long_files({'a.py': 'x\n' * 400, 'b.py': 'x\n' * 401}) == ['b.py: 401 lines']


@pytest.mark.parametrize(
    'text',
    [
        'from pgseg_mm.text.words import _cut\n',
        'from ..text.words import _cut\n',
        'from pgseg_mm.text import words\nwords._cut()\n',
        'import pgseg_mm.text.words as w\nw._cut = None\n',
        'import pgseg_mm.text.words\npgseg_mm.text.words._cut()\n',
        'def f():\n    from ..text import words\n    return words._cut\n',
        'from ..text import words\nmonkeypatch.setattr(words, "_cut", None)\n',
        'monkeypatch.setattr("pgseg_mm.text.words._cut", None)\n',
    ],
)
def test_borrowed_names_are_found(text):
    home = {'pgseg_mm/text/words.py': 'def _cut(): pass\n'}
    found = borrowed_names({**home, 'pgseg_mm/models/pgseg.py': text})
    assert found == ['pgseg_mm/models/pgseg.py: pgseg_mm.text.words._cut']
    assert borrowed_names({**home, 'pgseg_mm/text/other.py': text}) == []


def test_scripts_that_import_each_other_by_name_are_looked_at():
    home = {'tests/helpers/runs.py': '_free = 1\n'}
    text = 'import runs\nruns._free\nfrom runs import _free\nruns.__doc__\n'
    found = borrowed_names({**home, 'tests/test_tools/test_runs.py': text})
    assert sorted(found) == ['tests/test_tools/test_runs.py: runs._free'] * 2
    assert borrowed_names({**home, 'tests/helpers/more_runs.py': text}) == []
    assert borrowed_names({'a.py': 'import torch\ntorch._C\nfrom torch import _C\n'}) == []


def test_shared_names_are_found():
    one = 'LIMIT, _FREE = 1, 2\nT = TypeVar("T")\nclass A:\n    name = 1\ndef f(): pass\n'
    other = 'from a import A\nLIMIT: int = 2\n_FREE = 3\nT = TypeVar("T")\nname = 1\n'
    assert shared_names({'a.py': one, 'b.py': other}) == ['LIMIT: a.py, b.py']
