"""What the pages cite, name and link exists, and the package imports what docs/design.md allows."""

import ast
import importlib
import inspect
import re
from collections import Counter
from functools import lru_cache
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

import pytest
import yaml

import pgseg_mm

ROOT = Path(__file__).parents[1]
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
FENCE = re.compile(r'^[ ]*```.*?^[ ]*```[ ]*$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)')
NUMBER = r'\d+(?:\.\d+)?'
CITATION = re.compile(rf'docs/method\.md,\s+({NUMBER}(?:(?:,\s+|\s+and\s+){NUMBER})*)')
CODE = re.compile(r'`([^`\n]+)`')


def prose(page: Path) -> str:
    """A page without its blocks of code and formulas."""
    return FENCE.sub('', page.read_text(encoding='utf-8'))


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
    paths = [path for path in paths if not re.search(r'\b[A-Z]+\b(?!\.md)', path)]  # stand-ins
    return [path for path in paths if not (ROOT / path).exists()]


def missing_commands(page: Path) -> list[str]:
    """Targets of make, modules and scripts in a page's commands that do not exist."""
    blocks = re.findall(r'```bash\n(.*?)```', page.read_text(encoding='utf-8'), re.DOTALL)
    text = '\n'.join(line.partition(' #')[0] for block in blocks for line in block.splitlines())
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    targets = re.findall(r'^make ([\w-]+)', text, re.MULTILINE)
    missing = [name for name in targets if not re.search(rf'^{name}:', makefile, re.MULTILINE)]
    modules = re.findall(r'-m ((?:pgseg_mm|benchmarks)[\w.]*)', text)
    missing += [name for name in modules if not find_spec(name)]
    scripts = re.findall(r'(?<![\w/])((?:tools|demo|tests|configs)/[\w./+-]+\.(?:py|sh))\b', text)
    return missing + [path for path in scripts if not (ROOT / path).exists()]


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
    )
    assert missing_commands(page) == ['tests', 'benchmarks.mpr', 'tools/trains.py']


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
