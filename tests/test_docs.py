"""What the pages cite, name, link and show exists."""

import re

import pytest
import yaml

import pgseg_mm
from page_checks import (
    DESIGN,
    FOLDERS,
    FORMULAS,
    INDEX,
    LINK,
    PACKAGE,
    PAGES,
    broken_links,
    citations,
    headings,
    is_in_module,
    is_there,
    missing_commands,
    missing_names,
    missing_paths,
    named_in_code,
    prose,
    python_command,
    refused,
    sections,
    shown,
    unknown_calls,
)
from pages import CODE, ROOT, commands, read_page


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
