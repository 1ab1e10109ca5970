"""What the pages cite, name and link exists, and the package imports what docs/design.md allows."""

import ast
import importlib
import inspect
import re
import sys
from argparse import ArgumentParser
from collections import Counter
from functools import lru_cache
from graphlib import TopologicalSorter
from importlib.util import find_spec
from itertools import dropwhile
from pathlib import Path
from pkgutil import resolve_name, walk_packages
from runpy import run_module, run_path

import pytest
import yaml

import pgseg_mm
from pages import CODE, ROOT, blocks, commands, read_page
from pages import prose as without_blocks

PACKAGE = ROOT / 'pgseg_mm'
FORMULAS, DESIGN, INDEX = (ROOT / 'docs' / f'{name}.md' for name in ('method', 'design', 'README'))
FOLDERS = ('pgseg_mm', 'configs', 'tests', 'docs', 'tools', 'benchmarks', 'demo', 'projects')
PAGES = sorted(
    [*ROOT.glob('*.md')]
    + [
        page
        for folder in FOLDERS
        for page in (ROOT / folder).rglob('*.md')
        if '.mim' not in page.parts
    ],
    key=str,
)
LINK = re.compile(r'\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)')
NUMBER = r'\d+(?:\.\d+)?'
CITATION = re.compile(rf'docs/method\.md,\s+({NUMBER}(?:(?:,\s+|\s+and\s+){NUMBER})*)')
NAME = re.compile(r'\bpgseg_mm(?:\.(?!pth\b)\w+)+(?!\w)')
LAUNCHED = {
    'dist_train.sh': ('tools/train.py', {1}),
    'dist_test.sh': ('tools/test.py', {2}),
    'slurm_train.sh': ('tools/train.py', {0, 1}),
    'slurm_test.sh': ('tools/test.py', {0, 1}),
}
"""Tool that a script starts several processes of, and which arguments are the script's own."""


def prose(page: Path) -> str:
    """A page without its blocks of code and formulas."""
    return without_blocks(page.read_text(encoding='utf-8'))


def headings(page: Path) -> list[str]:
    return re.findall(r'^#{1,6} +(.+?) *$', prose(page), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in headings(page):
        text = LINK.sub(r'\1', heading).lower()
        slug = re.sub(r'[^\w\- ]', '', text).replace(' ', '-')
        found.add(f'{slug}-{seen[slug]}' if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken_links(page: Path, root: Path) -> list[str]:
    """Relative links of a page that lead to no file, folder or heading below ``root``."""
    broken = []
    for _, target in LINK.findall(prose(page)):
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        found = file.exists() and file.is_relative_to(root)
        if found and anchor:
            found = file.suffix == '.md' and anchor in anchors(file)
        if not found:
            broken.append(target)
    return broken


def sections(page: Path) -> dict[str, str]:
    """Text of the numbered sections of a page by number; '1' holds that of '1.1', too."""
    parts = re.split(rf'^#+ ({NUMBER})\.? .*$', prose(page), flags=re.MULTILINE)
    own = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {
        number: ''.join(t for other, t in own.items() if f'{other}.'.startswith(f'{number}.'))
        for number in own
    }


def citations(root: Path) -> list[tuple[Path, str]]:
    """Files with each number of a section that they cite."""
    found = []
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob('*')):
            if file.suffix in ('.py', '.md', '.sh', '.yml', '.txt') and '.mim' not in file.parts:
                cited = CITATION.findall(file.read_text(encoding='utf-8'))
                found += [(file, number) for text in cited for number in re.findall(NUMBER, text)]
    return found


def named_in_code(page: Path) -> list[tuple[str, Path]]:
    """What links of a page to modules of the package name, and the modules' files."""
    links = ((text, target) for text, target in LINK.findall(prose(page)) if target[-3:] == '.py')
    found = [(text.strip('`'), (page.parent / target).resolve()) for text, target in links]
    return [(name, file) for name, file in found if file.is_relative_to(PACKAGE)]


def is_in_module(name: str, file: Path) -> bool:
    """Whether ``module.Name.attribute`` is in the module's file, and defined there."""
    module, *attributes = name.split('.')
    if module != file.stem or not attributes:
        return False
    found = importlib.import_module('.'.join(file.relative_to(ROOT).with_suffix('').parts))
    home = found.__name__
    for attribute in attributes:
        if not hasattr(found, attribute):
            return False
        found = getattr(found, attribute)
    return getattr(found, '__module__', home) == home


@lru_cache
def classes() -> dict[str, type]:
    """Public classes of the package by name."""
    modules = walk_packages(pgseg_mm.__path__, 'pgseg_mm.')
    names = [module.name for module in modules if not module.name.endswith('__main__')]
    return {
        name: value
        for module in map(importlib.import_module, names)
        for name, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__.startswith('pgseg_mm.') and not name.startswith('_')
    }


def unknown_calls(text: str) -> list[str]:
    """Calls such as ``Name(option=...)`` of no class of the package, or with no such option."""
    unknown = []
    for span in CODE.findall(text):
        if not re.fullmatch(r'[A-Z]\w+\(.*\)', span):
            continue
        call = ast.parse(span, mode='eval').body
        cls = classes().get(call.func.id)
        options = set(inspect.signature(cls).parameters) if cls else set()
        if cls is None or not {keyword.arg for keyword in call.keywords} <= options:
            unknown.append(span)
    return unknown


def missing_paths(text: str) -> list[str]:
    """Paths in code spans, from the top of the repository, that do not exist."""
    spans = [span.split(':')[0].rstrip('/') for span in CODE.findall(text)]
    paths = [span for span in spans if re.fullmatch(rf'(?:{"|".join(FOLDERS)})/[\w./+-]+', span)]
    paths = [
        path for path in paths if not re.search(r'(?:\b|_)[A-Z]+\b(?!\.md)', path)
    ]  # stand-ins
    return [path for path in paths if not (ROOT / path).exists()]


def shown(page: Path) -> str:
    """Commands of a page, in blocks and within lines, each on a line of its own."""
    text = page.read_text(encoding='utf-8')
    lines = '\n'.join(blocks(text, 'bash', 'shell')).splitlines()
    lines = [line.partition(' #')[0] for line in lines]
    spans = [span.replace('\n', ' ') for span in re.findall(r'`([^`]+)`', prose(page))]
    return '\n'.join(lines + [span for span in spans if re.match(r'(python|bash|make) ', span)])


def missing_commands(page: Path) -> list[str]:
    """Targets of make, modules and scripts in a page's commands that do not exist."""
    text = shown(page)
    makefile = read_page('Makefile')
    targets = re.findall(r'^make ([\w-]+)', text, re.MULTILINE)
    missing = [name for name in targets if not re.search(rf'^{name}:', makefile, re.MULTILINE)]
    modules = re.findall(r'-m ((?:pgseg_mm|benchmarks)[\w.]*)', text)
    missing += [name for name in modules if not re.search('[A-Z]', name) and not find_spec(name)]
    scripts = re.findall(r'(?<![\w/])((?:tools|demo|tests|configs)/[\w./+-]+\.(?:py|sh))\b', text)
    return missing + [path for path in scripts if not (ROOT / path).exists()]


def missing_names(page: Path) -> list[str]:
    """Modules, classes and functions that a page calls by their full names and that are not."""
    text = page.read_text(encoding='utf-8')
    named = {name for span in CODE.findall(prose(page)) for name in NAME.findall(span)}
    for block in blocks(text, 'python'):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                named |= {f'{node.module}.{alias.name}' for alias in node.names}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
    return sorted(name for name in named if name.startswith('pgseg_mm') and not is_there(name))


def is_there(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def python_command(words: list[str]) -> list[str] | None:
    """Script or module with the arguments that a documented command hands to it; None for others.

    Jobs of several processes hand theirs to the tool that they run.
    """
    words = list(dropwhile(re.compile(r'[A-Z_]+=|(?:python|bash)$').match, words))
    if words[:2] == ['-m', 'pgseg_mm']:
        return [f'tools/{words[2]}.py', *words[3:]]
    if words[0] == '-m' and re.match(r'benchmarks\.[a-z]', words[1]):
        return words[1:]
    launcher = Path(words[0]).name
    if launcher in LAUNCHED:
        tool, own = LAUNCHED[launcher]
        return [tool, *(word for i, word in enumerate(words[1:]) if i not in own)]
    return words if re.match(r'(tools|demo)/.*\.py$', words[0]) else None


class Understood(BaseException):
    """The arguments were parsed; nothing is done with them."""


def refused(command: list[str], monkeypatch) -> bool:
    """Whether a tool does not take these arguments."""
    parse = ArgumentParser.parse_args

    def only_parse(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Understood

    monkeypatch.setattr(ArgumentParser, 'parse_args', only_parse)
    monkeypatch.setattr(sys, 'argv', command)
    monkeypatch.syspath_prepend(str((ROOT / command[0]).parent))
    try:
        if command[0].endswith('.py'):
            run_path(str(ROOT / command[0]), run_name='__main__')
        else:
            run_module(command[0], run_name='__main__')
    except Understood:
        return False
    except SystemExit as leaving:
        return leaving.code != 0  # --help
    raise AssertionError(f'{command[0]} parsed no arguments')


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


def test_citations_lead_to_sections_that_link_back():
    known = sections(FORMULAS)
    cited = citations(ROOT)
    assert len(cited) >= 33
    assert [(file, number) for file, number in cited if number not in known] == []
    home = {
        number: {target.split('#')[0] for _, target in LINK.findall(text)}
        | {f'../{span}' for span in CODE.findall(text)}
        for number, text in known.items()
    }
    formulas = [(f.relative_to(ROOT), n) for f, n in cited if f.parts[-2] != 'tests']
    formulas = [(f, n) for f, n in formulas if f.parts[0] in ('pgseg_mm', 'configs')]
    assert [(f, n) for f, n in formulas if f'../{f.as_posix()}' not in home[n]] == []


def test_a_citation_of_nothing_is_found(tmp_path):
    page = FORMULAS.relative_to(ROOT).as_posix()
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools' / 'a.py').write_text(f'"""As ({page},\n    1.3, 9.9 and 4)."""\n')
    assert [number for _, number in citations(tmp_path)] == ['1.3', '9.9', '4']
    assert '9.9' not in sections(FORMULAS)


def test_nothing_cites_a_page_that_is_not_here():
    old = re.compile(rf'\b{FORMULAS.stem.upper()}\b')
    files = [f for name in FOLDERS for f in (ROOT / name).rglob('*.py') if '.mim' not in f.parts]
    assert [f for f in [*files, *PAGES] if old.search(f.read_text(encoding='utf-8'))] == []


def test_sections_one_to_five_are_there():
    numbers = [
        '1',
        *(f'1.{i}' for i in range(1, 7)),
        '2',
        '3',
        '4',
        '4.1',
        '4.2',
        '4.3',
        '4.4',
        '5',
    ]
    assert set(numbers) <= sections(FORMULAS).keys()
    assert len(re.findall('^[ ]*```math$', FORMULAS.read_text(encoding='utf-8'), re.MULTILINE)) > 10


@pytest.mark.parametrize('page', [FORMULAS, DESIGN], ids=lambda page: page.stem)
def test_what_the_pages_name_is_in_the_code(page):
    named = named_in_code(page)
    assert len(named) > 20
    assert [(name, file) for name, file in named if not is_in_module(name, file)] == []
    assert unknown_calls(prose(page)) == []


def test_a_wrong_name_is_found():
    file = PACKAGE / 'models' / 'losses' / 'npr_loss.py'
    assert is_in_module('npr_loss.NPRLoss.finish', file)
    for name in ('npr_loss.NPRLosses', 'npr_loss.NPRLoss.stop', 'losses.NPRLoss', 'npr_loss'):
        assert not is_in_module(name, file)
    assert not is_in_module('npr_loss.Tensor', file)
    wrong = ['NPRLoss(maximum=True)', 'NPRLosses(maximize=True)']
    text = ' '.join(
        f'`{call}`' for call in ['NPRLoss(maximize=True)', 'PGSeg(train_cfg=...)', *wrong]
    )
    assert unknown_calls(text) == wrong


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert broken_links(page, ROOT) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        '# A `page`: 1.3, and more\n## Twice\n## Twice\n```bash\n# no heading [x](no.md)\n```\n'
        '[a](#a-page-13-and-more) [b](#twice-1) [c](page.md#twice) [d](https://a.org/no.md)\n'
        '[e](no.md) ![f](no.png) [`g`](page.md#thrice) [h](#no-heading-x) [i](..)\n'
    )
    wrong = ['no.md', 'no.png', 'page.md#thrice', '#no-heading-x', '..']
    assert broken_links(page, tmp_path) == wrong


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_in_pages_exist(page):
    assert missing_paths(prose(page)) == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_pages_exist(page):
    assert missing_commands(page) == []


def test_missing_commands_are_found(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        '```bash\nmake test\nmake tests\npython -m benchmarks.npr  # make nothing\n'
        'python -m benchmarks.mpr\nbash tools/dist_train.sh a\npython tools/trains.py a\n```\n'
        '`python tools/tests.py` `make it`\n'
    )
    missing = ['tests', 'it', 'benchmarks.mpr', 'tools/trains.py', 'tools/tests.py']
    assert missing_commands(page) == missing


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_in_pages_exist(page):
    if page.name != 'CHANGELOG.md':  # it has names of the past
        assert missing_names(page) == []


def test_missing_names_are_found(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        '`pgseg_mm.limits.CHECKPOINT_DEPTH = 200` `pgseg_mm.limits.NO_LIMIT` '
        '`pgseg_mm.models.losses`\n```python\nfrom pgseg_mm.apis import PGSegInferencer, '
        'Nothing\nimport pgseg_mm.no_module\nimport mmcv\n```\n'
    )
    wrong = ['pgseg_mm.apis.Nothing', 'pgseg_mm.limits.NO_LIMIT', 'pgseg_mm.no_module']
    assert missing_names(page) == wrong


@pytest.mark.parametrize(
    'page',
    [page for page in PAGES if shown(page)],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_tools_take_the_arguments_that_pages_give_them(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = [python_command(words) for words in commands(f'```bash\n{shown(page)}\n```')]
    wrong = [words for words in found if words and refused(words, monkeypatch)]
    assert wrong == []


def test_arguments_that_no_tool_takes_are_found(monkeypatch, capsys):
    command = python_command(
        ['PORT=1', 'bash', 'tools/dist_test.sh', 'a.py', 'a.pth', '2', '--sho']
    )
    assert command == ['tools/test.py', 'a.py', 'a.pth', '--sho']
    assert refused(command, monkeypatch)
    assert not refused([*command[:3], '--tta'], monkeypatch)
    assert python_command(['make', 'demo']) is None


def test_a_missing_path_is_found():
    text = '`tools/train.py` `tools/trains.py` `configs/pgseg/` `configs/pgsegs/` `data/cc3m`'
    assert missing_paths(text) == ['tools/trains.py', 'configs/pgsegs']


def test_every_page_is_in_the_index():
    linked = {
        (INDEX.parent / target.split('#')[0]).resolve()
        for _, target in LINK.findall(prose(INDEX))
        if ':' not in target
    }
    benchmarks = set(
        (ROOT / 'docs' / 'benchmarks').glob('*.md')
    )  # these have an index of their own
    assert sorted({*PAGES} - linked - benchmarks - {INDEX, ROOT / 'README.md'}) == []
    assert ROOT / 'docs' / 'benchmarks' / 'README.md' in linked


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


def test_software_is_cited_by_its_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert {'cff-version', 'message', 'title', 'authors', 'license'} <= citation.keys()
    assert citation['version'] == pgseg_mm.__version__
    papers = {paper['identifiers'][0]['value']: paper for paper in citation['references']}
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    entries = dict(
        zip(
            re.findall(r'arXiv:(\d+\.\d+)', readme),
            re.findall(r'^@inproceedings\{.*?^\}', readme, re.MULTILINE | re.DOTALL),
            strict=True,
        )
    )
    assert {f'arXiv:{number}' for number in entries} == papers.keys()
    for number, entry in entries.items():
        paper = papers[f'arXiv:{number}']
        authors = [f'{a["family-names"]}, {a["given-names"]}' for a in paper['authors']]
        assert f'author={{{" and ".join(authors)}}}' in re.sub(r'\s+', ' ', entry)
        assert f'title={{{paper["title"]}}}' in re.sub(r'\s+', ' ', entry)


def test_changes_begin_with_what_is_not_released():
    changes = headings(ROOT / 'CHANGELOG.md')
    assert changes[:2] == ['Changelog', 'Unreleased']
    assert f'{pgseg_mm.__version__}' in prose(ROOT / 'CHANGELOG.md')


def test_what_has_moved_is_where_the_changelog_says():
    row = r'^ *\| `pgseg_mm[^|]* \| (`pgseg_mm[^|]*) \|$'
    places = re.findall(row, read_page('CHANGELOG.md'), re.MULTILINE)
    names = [name for place in places for name in CODE.findall(place)]
    assert len(names) > 10
    assert [n for n in names if not (is_there(n) if '/' not in n else (ROOT / n).is_dir())] == []
