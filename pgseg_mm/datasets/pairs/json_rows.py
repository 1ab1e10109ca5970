"""Entries of JSON lists and lines of JSON, one at a time, whatever they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from pgseg_mm import limits

from .skips import BROKEN_JSON, UnusableSample

READ_CHARACTERS = 2**16
BLANK = re.compile(r'[ \t\r\n]*')
STRUCTURE = re.compile(r'\\.|["\[\]{},]', re.DOTALL)
CUT_OFF = 16
"""Characters before the end of a text where an error may be one of the cut: those of a word."""
JSON_TYPES = {'{': 'dict', '"': 'str', 't': 'bool', 'f': 'bool', 'n': 'NoneType'}


class MalformedJson(ValueError):
    """What is read is no JSON, or no list.

    Args:
        message: Where and why.
    """


def read_lines(file: TextIO) -> Iterator[tuple[int, str | None]]:
    """Numbers and contents of lines; None for one of more than :data:`MAX_ROW_CHARACTERS`."""
    number = 0
    while line := file.readline(limits.MAX_ROW_CHARACTERS):
        number += 1
        whole, rest = True, line
        while len(rest) == limits.MAX_ROW_CHARACTERS and not rest.endswith('\n'):
            rest = file.readline(limits.MAX_ROW_CHARACTERS)
            whole = whole and not rest
        yield number, line if whole else None


def parse(text: str, place: str) -> Any:
    """A value of JSON, or why it is none to work with.

    Args:
        text: The JSON.
        place: What to call it in messages.

    Raises:
        json.JSONDecodeError: It is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        return _unusable(place, error)


def too_long(place: str) -> UnusableSample:
    """The fault of a row that is too long to be held."""
    return UnusableSample(
        BROKEN_JSON, f'{place} has more than {limits.MAX_ROW_CHARACTERS} characters of JSON.'
    )


def _unusable(place: str, error: Exception) -> UnusableSample:
    why = 'is nested too deeply' if isinstance(error, RecursionError) else 'has a number too long'
    return UnusableSample(BROKEN_JSON, f'{place} {why}.')


class JsonList:
    """The entries of a list in a file of any size, of which one at a time is held.

    Args:
        file: The file.
        name: What to call it in messages.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._text, self._at, self._line = '', 0, 1
        self._ended = False
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[Any]:
        """Values, or an :class:`UnusableSample` for one that cannot be worked with.

        Raises:
            MalformedJson: The file holds something else than a list.
        """
        first = self._next_sign()
        if first != '[':
            kind = 'number' if first in '-0123456789IN' and first else JSON_TYPES.get(first)
            if kind is None:
                raise self._malformed('Expecting value')
            raise MalformedJson(
                f'{self._name} holds a JSON {kind}; expected a list with one object a pair.'
            )
        self._at += 1
        number = 0
        while (sign := self._next_sign()) != ']':
            if number > 0:
                if sign != ',':
                    raise self._malformed("Expecting ',' delimiter")
                self._at += 1
                self._next_sign()
            number += 1
            yield self._entry(f'{self._name}, entry {number}')
        self._at += 1
        if self._next_sign():
            raise self._malformed('Extra data')

    def _entry(self, place: str) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - CUT_OFF or 'Unterminated' in error.msg
                if self._ended or not cut:
                    raise self._malformed(error.msg, error.pos) from error
                if len(self._text) - self._at > limits.MAX_ROW_CHARACTERS:
                    self._skip()
                    return too_long(place)
                self._read()
            except (RecursionError, ValueError) as error:
                self._skip()
                return _unusable(place, error)
            else:
                if end < len(self._text) or self._ended:
                    length, self._at = end - self._at, end
                    return value if length <= limits.MAX_ROW_CHARACTERS else too_long(place)
                self._read()

    def _skip(self) -> None:
        """Go to the end of an entry without making anything of it."""
        depth, in_text = 0, False
        while True:
            for match in STRUCTURE.finditer(self._text, self._at):
                sign = match.group()
                if sign == '"':
                    in_text = not in_text
                elif in_text or len(sign) > 1:
                    continue
                elif sign in '[{':
                    depth += 1
                elif depth == 0:  # a comma, or the end of the list
                    self._at = match.start()
                    return
                elif sign in ']}':
                    depth -= 1
            self._at = len(self._text)
            if self._ended:
                raise self._malformed('the file is cut off')
            self._read()

    def _next_sign(self) -> str:
        """The next character that is not blank, or '' at the end."""
        while True:
            match = BLANK.match(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read()

    def _read(self) -> None:
        """Drop what is done with, and read as much again as is there, at least."""
        self._line += self._text.count('\n', 0, self._at)
        self._text, self._at = self._text[self._at :], 0
        more = self._file.read(max(READ_CHARACTERS, len(self._text)))
        while more.endswith('\\') and (one := self._file.read(1)):  # keeps escapes whole
            more += one
        self._ended = not more
        self._text += more

    def _malformed(self, why: str, at: int | None = None) -> MalformedJson:
        line = self._line + self._text.count('\n', 0, self._at if at is None else at)
        return MalformedJson(f'{self._name}, line {line}: invalid JSON: {why}.')
