"""What is looked for in the pages: citations, links, paths, names and commands of nothing."""

import ast
import importlib
import inspect
import re
import sys
from argparse import ArgumentParser
from collections import Counter
from functools import lru_cache
from importlib.util import find_spec
from itertools import dropwhile
from pathlib import Path
from pkgutil import resolve_name, walk_packages
from runpy import run_module, run_path

import pgseg_mm
from pages import CODE, ROOT, blocks, read_page
from pages import prose as without_blocks
from pgseg_command import COMMANDS

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
        words = ['pgseg', *words[2:]]
    if words[0] == 'pgseg':
        return of_pgseg(words[1:])
    if words[0] == '-m' and re.match(r'benchmarks\.[a-z]', words[1]):
        return words[1:]
    launcher = Path(words[0]).name
    if launcher in LAUNCHED:
        tool, own = LAUNCHED[launcher]
        return [tool, *(word for i, word in enumerate(words[1:]) if i not in own)]
    return words if re.match(r'(tools|demo)/.*\.py$', words[0]) else None


def of_pgseg(words: list[str]) -> list[str] | None:
    """Script that ``pgseg`` runs as it is, with its arguments.

    None for what is a command only, whose tests are in tests/test_packaging/test_command.py.
    """
    if not words or not re.match('[a-z]', words[0]):
        return None
    command = COMMANDS.get(words[0])
    if command is not None and command.called:
        return None
    return [command.script if command else f'tools/{words[0]}.py', *words[1:]]


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
