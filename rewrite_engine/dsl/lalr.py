"""The driver of the parse table that `grammar/generate_table.py` writes.

An LALR(1) parser with a contextual scanner: of the terminals that match, the first is
taken that the state of the parser accepts. No tree is built; each production hands its
span and its children to the builder's method of its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import attrs

from rewrite_engine.assets import grammar_directory
from rewrite_engine.source import Span

END: Final = "$END"
UNKNOWN: Final = ""
"""The kind of a character that starts no token."""
LIST: Final = "list"
"""The method of productions that are lists of their children."""

_NAME: Final = "NAME"
# Words and numbers are read whole in every state, never only their beginning.
_ALWAYS: Final = (_NAME, "FLOAT")

_Entry = tuple[int, Any, int, int]
"""Of the parser's stack: a state, the value that led to it, the place where that
starts, and how many levels of productions it has.
"""

Row = Mapping[str, int]
"""By symbol: the state to go to, or the complement of the production to reduce by."""


@attrs.frozen
class Word:
    """One token of the text."""

    text: str
    start: int
    end: int

    @property
    def span(self) -> Span:
        return Span(self.start, self.end)


@attrs.frozen
class SyntaxFault(Exception):  # noqa: N818  # a fault of the text, not of the program
    """Where a text stops to make sense.

    `kind` is the terminal found, `END` or `UNKNOWN`.
    """

    kind: str
    span: Span
    expected: frozenset[str]
    """The terminals that could stand there."""


@attrs.frozen
class TooDeep(Exception):  # noqa: N818  # as above
    """More levels than asked for; `span` is the part that has them."""

    span: Span


class Production(NamedTuple):
    """See `grammar/generate_table.py`."""

    symbol: str
    length: int
    method: str | None
    children: tuple[int | None, ...]

    @property
    def is_step(self) -> bool:
        """Whether it only hands on a value, as each level of precedence does."""
        return self.length == 1 and self.method is None


@attrs.frozen(eq=False)
class Table:
    """The automaton of a grammar, and how its tokens are told apart."""

    scanner: re.Pattern[str]
    terminals: Mapping[str, str]
    """Their regular expressions, in the order in which they are tried."""
    words: Mapping[str, str]
    kept: frozenset[str]
    productions: tuple[Production, ...]
    rows: tuple[Row, ...]
    """By state; the parser starts in the first."""
    end: int
    """The state in which a text may end."""
    settled: dict[tuple[int, str, str], int] = attrs.field(factory=dict, init=False)
    """What `settle` found out."""

    def settle(self, below: int, symbol: str, kind: str) -> int:
        """The state that follows `below` after a symbol, if a `kind` comes next.

        Productions that only hand on a value are applied at once: nine in ten
        reductions are of this sort. What was found out is remembered.
        """
        state = self.rows[below][symbol]
        while (action := self.rows[state].get(kind, 0)) < 0:
            production = self.productions[~action]
            if not production.is_step:
                break
            state = self.rows[below][production.symbol]
        self.settled[below, symbol, kind] = state
        return state

    def token(self, row: Row, text: str, at: int, to: int) -> tuple[str, int, int]:
        """The kind, start and end of the next token of a text that ends at `to`."""
        found = self.scanner.match(text, at, to)
        assert found is not None, "the last alternative of the scanner is empty"
        kind = found.lastgroup
        if kind is None:
            end = found.end()
            return END if end == to else UNKNOWN, end, end
        start, end = found.span(kind)
        if kind not in row and kind not in _ALWAYS:
            kind, end = self._fitting(row, text, start, to) or (kind, end)
        if kind == _NAME:
            word = self.words.get(text[start:end], _NAME)
            kind = word if word in row else _NAME
        return kind, start, end

    def _fitting(
        self, row: Row, text: str, start: int, to: int
    ) -> tuple[str, int] | None:
        """The kind and end of a token that fits, where the first one does not."""
        for kind, regex in self.terminals.items():
            if kind in row or kind in _ALWAYS:
                found = re.compile(regex).match(text, start, to)
                if found is not None:
                    return kind, found.end()
        return None

    def fault(self, states: list[int], kind: str, span: Span) -> SyntaxFault:
        """What is wrong if no action is known for a token."""
        expected = (k for k in self.rows[states[-1]] if k.isupper())
        accepted = (k for k in expected if self._accepts(states, k))
        if kind == UNKNOWN:
            span = Span(span.start, span.start + 1)
        return SyntaxFault(kind, span, frozenset(accepted))

    def _accepts(self, states: list[int], kind: str) -> bool:
        """Whether a token can follow; the entries of a row are only candidates."""
        stack = list(states)
        while (action := self.rows[stack[-1]].get(kind, 0)) < 0:
            production = self.productions[~action]
            del stack[len(stack) - production.length :]
            stack.append(self.rows[stack[-1]][production.symbol])
        return action > 0 or (kind == END and stack[-1] == self.end)


@cache
def table() -> Table:
    """The table of the language of rules."""
    path = grammar_directory() / "rules.table.json"
    read = json.loads(path.read_text(encoding="utf-8"))
    named = "|".join(f"(?P<{name}>{regex})" for name, regex in read["terminals"])
    return Table(
        scanner=re.compile(rf"(?:{read['ignored']})*(?:{named}|\Z|)"),
        terminals=dict(read["terminals"]),
        words=read["words"],
        kept=frozenset(read["kept"]),
        productions=tuple(Production(*each) for each in read["productions"]),
        rows=tuple(read["rows"]),
        end=read["end"],
    )


def parse(text: str, part: Span, builder: object, max_levels: int) -> tuple[Any, int]:
    """What the builder made of a part of a text, and of how many levels; spans are
    places in the whole text.

    Raises SyntaxFault or, if productions are nested deeper than `max_levels`, TooDeep.
    """
    automaton = table()
    rows, productions = automaton.rows, automaton.productions
    settled, kept = automaton.settled, automaton.kept
    at, end = part.start, part.start
    stack: list[_Entry] = [(0, None, at, 0)]
    while True:
        row = rows[stack[-1][0]]
        kind, start, at = automaton.token(row, text, at, part.end)
        while (action := row.get(kind, 0)) < 0:
            symbol, length, method, children = productions[~action]
            if length == 1 and method is None:
                _, value, first, level = stack.pop()
            else:
                base = len(stack) - length
                value, first, level = _joined(children, stack[base:], start)
                del stack[base:]
                if method is None:
                    (value,) = value
                elif method != LIST:
                    level += 1
                    if level > max_levels:
                        raise TooDeep(Span(first, end))
                    value = getattr(builder, method)(Span(first, end), *value)
            key = stack[-1][0], symbol, kind
            state = settled.get(key) or automaton.settle(*key)
            stack.append((state, value, first, level))
            row = rows[state]
        if action == 0:
            state, value, _, level = stack[-1]
            if kind == END and state == automaton.end:
                return value, level
            states = [state for state, *_ in stack]
            raise automaton.fault(states, kind, Span(start, at))
        end = at
        word = Word(text[start:end], start, end) if kind in kept else None
        stack.append((action, word, start, 0))


def _joined(
    indices: tuple[int | None, ...], entries: list[_Entry], following: int
) -> tuple[list[Any], int, int]:
    """The children of a production, where it starts, and the levels in it."""
    found: list[Any] = []
    for index in indices:
        if index is None:
            found.append(None)
        elif index >= 0:
            found.append(entries[index][1])
        else:  # a list that nobody else holds
            spliced = entries[~index][1]
            found = found + spliced if found else spliced
    level = 0
    for entry in entries:
        if entry[3] > level:
            level = entry[3]
    # What is empty starts at what follows it.
    return found, entries[0][2] if entries else following, level
