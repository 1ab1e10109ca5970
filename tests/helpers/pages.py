"""Pages of the project: their blocks of code, and their commands as words."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r'`([^`\n]+)`')
"""A span of code within a line."""
FENCE = re.compile(r'^[ ]*```.*?^[ ]*```[ ]*$', re.MULTILINE | re.DOTALL)
"""A block of code or of a formula."""


def read_page(path: str | Path) -> str:
    """Text of a page, by its path from the top of the repository."""
    return (ROOT / path).read_text(encoding='utf-8')


def prose(text: str) -> str:
    """A page's text without its blocks."""
    return FENCE.sub('', text)


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one that is not below it."""
    first = re.search(rf'^(#+) {re.escape(heading)}$', text, re.MULTILINE)
    assert first, f'no heading {heading!r}'
    rest = text[first.end() :]
    last = re.search(rf'^#{{1,{len(first[1])}}} ', FENCE.sub(_blank, rest), re.MULTILINE)
    return rest[: last.start()] if last else rest


def blocks(text: str, *languages: str) -> list[str]:
    """Contents of a page's blocks in these languages."""
    names = '|'.join(languages)
    return re.findall(rf'^[ ]*```(?:{names})\n(.*?)^[ ]*```[ ]*$', text, re.MULTILINE | re.DOTALL)


def commands(text: str, *tools: str) -> list[list[str]]:
    """Commands in a page's blocks as words: all, or those that name one of these tools."""
    lines = ''.join(blocks(text, 'bash', 'shell')).replace('\\\n', ' ').splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    named = [words for words in found if words]
    if tools:
        named = [words for words in named if any(tool in ' '.join(words) for tool in tools)]
    assert named, f'no command of {" or ".join(tools) or "any tool"}'
    return named


def _blank(block: re.Match) -> str:
    """As many letters that no heading begins with."""
    return re.sub(r'\S', '-', block[0])
