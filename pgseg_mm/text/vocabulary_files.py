"""Reading of vocabulary files as people have them."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

from pgseg_mm import limits
from pgseg_mm.files.reading import UnusableFile, read_file
from pgseg_mm.messages import described, shown

NUMBERED = re.compile(r'\s*(\d{1,9})(\s*[:\t,;|)]\s*|\.\s+|\s+)(?=.*[^\W\d_])')
"""A label in front of words, and what divides them."""
NUMBER = re.compile(r'[-+.\d]+(e[-+]?\d+)?')
BULLET = re.compile(r'\s*[-*\u2022]\s')
SEPARATORS = str.maketrans({';': ',', '\t': ','})
QUOTED = re.compile(r'("(?:[^"]|"")*")|[;\t]')
"""What is in quotes, or divides words beside a comma."""


class WordFile(NamedTuple):
    """Words of a file."""

    words: list[list[str]]
    """For each class its synonyms."""
    places: list[str]
    """Where each class stands, such as 'line 3 of words.txt'."""


def read_word_file(path: Path) -> WordFile:
    """Read a text file of one class a line, or a JSON list.

    Args:
        path: The file, in UTF-8. In text, commas, semicolons and tabs separate synonyms, words may
            be in quotes, lines that start with ``#`` are comments, and a column of labels 0, 1, 2,
            ... or 1, 2, 3, ... in front is left out. In JSON, a list has a text or a list of words
            for each class; an object maps the labels ``"0"``, ``"1"``, ... to them.

    Raises:
        FileAccessError: The system cannot read it.
        ValueError: It is something else; the message names the line.
    """
    name = shown(path)
    try:
        content = read_file(
            str(path), f'Vocabulary file {name}', max_bytes=limits.MAX_VOCABULARY_BYTES
        )
        text = content.decode('utf-8-sig')
    except UnusableFile as error:
        raise ValueError(f'Vocabulary file {name} {error.reason}.') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'Vocabulary file {name} is not UTF-8 text; save it as UTF-8.') from error
    is_json = text.lstrip()[:1] in ('[', '{') or path.suffix.lower() == '.json'
    return _read_json(text, name) if is_json else _read_lines(text, name)


def _read_json(text: str, name: str) -> WordFile:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'Line {error.lineno} of {name} is invalid JSON: {error.msg}.') from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f'{name} is nested too deeply, or has a number too long.') from error
    if isinstance(content, dict):
        content = _in_label_order(content, name)
    if not isinstance(content, list):
        raise ValueError(f'{name} holds JSON {described(content)}; expected a list of classes.')
    words = []
    for number, entry in enumerate(content):
        place = f'entry {number} of {name}'
        synonyms = entry.split(',') if isinstance(entry, str) else entry
        if not isinstance(synonyms, list) or not all(isinstance(word, str) for word in synonyms):
            raise ValueError(
                f'The {place} is {described(entry)}; expected a text or a list of them.'
            )
        words.append([_checked(word, place) for word in synonyms])
    return WordFile(words, [f'entry {number} of {name}' for number in range(len(words))])


def _in_label_order(content: dict[str, Any], name: str) -> list[Any]:
    labels = [str(label) for label in range(len(content))]
    if set(labels) != set(content):
        raise ValueError(
            f'{name} holds JSON {described(content)}; expected a list of classes, or the labels '
            '"0", "1", ... with their words.'
        )
    return [content[label] for label in labels]


def _read_lines(text: str, name: str) -> WordFile:
    lines = [
        (f'line {number} of {name}', line)
        for number, line in enumerate(text.rstrip().splitlines(), start=1)
        if not line.lstrip().startswith('#')
    ]
    for place, line in lines:
        if not line.strip():
            raise ValueError(
                f'Blank {place}: it would shift the labels of the classes after it; '
                'remove the line or name the class.'
            )
        if BULLET.match(line):
            raise ValueError(
                f'A bullet begins {place}: {shown(line.strip())}; leave nothing but words.'
            )
    lines = _without_numbers(lines)
    words = [_split(line, place) for place, line in lines]
    return WordFile(words, [place for place, _ in lines])


def _without_numbers(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Lines without a column of labels in front, if all have one."""
    matches = [NUMBERED.match(line) for _, line in lines]
    found = [match for match in matches if match is not None]
    if not found or len(found) < len(lines):
        return lines
    first = int(found[0].group(1))
    for (place, _), match, label in zip(
        lines, found, range(first, first + len(lines)), strict=True
    ):
        if int(match.group(1)) == label and first in (0, 1):
            continue
        if all(not match.group(2).strip(' ') for match in found):
            return lines  # words that begin with numbers
        raise ValueError(
            f'The number {match.group(1)} in {place} is not the next label; expected one line for '
            'each label, in label order, from 0 or 1 on.'
        )
    return [(place, line[match.end() :]) for (place, line), match in zip(lines, found, strict=True)]


def _split(line: str, place: str) -> list[str]:
    if '"' in line:
        line = QUOTED.sub(lambda part: part[1] or ',', line)
        try:
            [synonyms] = csv.reader([line], skipinitialspace=True, strict=True)
        except (csv.Error, ValueError) as error:
            raise ValueError(f'The quotes in {place} do not match: {shown(line)}') from error
    else:
        synonyms = line.translate(SEPARATORS).split(',')
    words = [_checked(word, place) for word in synonyms]
    opened = [number for number, word in enumerate(words) if word[:1] == "'"]
    if opened and any(word[-1:] == "'" for word in words[opened[0] + 1 :]):
        raise ValueError(
            f'Single quotes in {place} enclose a comma: {shown(line)}; take double quotes, or none.'
        )
    numbers = [word for word in words if NUMBER.fullmatch(word)]
    if numbers and len(numbers) < len(words):
        raise ValueError(
            f'The field {shown(numbers[0])} in {place} is a number; leave nothing but words.'
        )
    return words


def _checked(word: str, place: str) -> str:
    """A word without quotes around it and with single blanks, if it is one."""
    word = ' '.join(word.split())
    if len(word) > 1 and word[0] == word[-1] == "'":
        word = word[1:-1].strip()
    if any(unicodedata.category(letter) in ('Cc', 'Cs') for letter in word):
        raise ValueError(f'The word {shown(word)} in {place} has a sign that cannot be printed.')
    return word
