"""Characters of a text as lines and columns of the protocol, and back."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Final

from lsprotocol import types

from rewrite_engine.source import Span

_LINE_END: Final = re.compile(r"\r\n|\n|\r")

_UNITS: Final[Mapping[str, Callable[[str], int]]] = {
    "utf-8": lambda text: len(text.encode("utf-8", "surrogatepass")),
    "utf-16": lambda text: len(text.encode("utf-16-le", "surrogatepass")) // 2,
    "utf-32": len,
}
"""How many columns a text takes, by the encoding that client and server agreed on."""


class Positions:
    """Converts offsets of one text; lines and columns are 0-based.

    A column counts the code units of `encoding`; the protocol's own is UTF-16, in which
    characters beyond U+FFFF count twice.
    """

    def __init__(self, text: str, encoding: str = "utf-16") -> None:
        self._text = text
        self._units = _UNITS[encoding]
        ends = [(end.start(), end.end()) for end in _LINE_END.finditer(text)]
        self._starts = [0, *(end for _, end in ends)]
        self._stops = [*(start for start, _ in ends), len(text)]

    def position(self, offset: int) -> types.Position:
        """The position of a character."""
        line = bisect_right(self._starts, offset) - 1
        before = self._text[self._starts[line] : min(offset, self._stops[line])]
        return types.Position(line, self._columns(before))

    def range(self, span: Span) -> types.Range:
        """The range of a span."""
        return types.Range(self.position(span.start), self.position(span.end))

    def offset(self, position: types.Position) -> int:
        """The character at a position; one past a line's end means that end."""
        if position.line >= len(self._starts):
            return len(self._text)
        start, stop = self._starts[position.line], self._stops[position.line]
        line = self._text[start:stop]
        if line.isascii():
            return start + min(position.character, len(line))
        columns = 0
        for index, char in enumerate(line):
            columns += self._units(char)
            if columns > position.character:
                return start + index
        return stop

    def _columns(self, text: str) -> int:
        return len(text) if text.isascii() else self._units(text)
