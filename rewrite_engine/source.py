"""Rule text and positions in it."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

import attrs


@attrs.frozen
class Span:
    """A stretch of a source, in characters: 0-based, end-exclusive."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """What stands there in a text."""
        return text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.start, other.end)

    def first(self, length: int) -> Span:
        """So many characters at the start of this one."""
        return Span(self.start, self.start + length)


NOWHERE = Span(0, 0)


@attrs.frozen(eq=False)
class Placed:
    """What stands somewhere in a source; equality does not ask where."""

    span: Span = attrs.field(default=NOWHERE, eq=False, repr=False, kw_only=True)


@attrs.frozen
class Position:
    """A line and a column, both 1-based."""

    line: int
    column: int


@attrs.frozen(slots=False)
class Source:
    """The text of one rule file and the name it is reported under."""

    name: str
    text: str = attrs.field(repr=False)

    @cached_property
    def _line_starts(self) -> tuple[int, ...]:
        newlines = (i + 1 for i, char in enumerate(self.text) if char == "\n")
        return (0, *newlines)

    def position(self, offset: int) -> Position:
        """The line and column of a character offset."""
        line = bisect_right(self._line_starts, offset)
        return Position(line, offset - self._line_starts[line - 1] + 1)

    def line(self, number: int) -> str:
        """The text of a 1-based line, without its newline."""
        start = self._line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : len(self.text) if end < 0 else end]
