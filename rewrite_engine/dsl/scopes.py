"""What the names of a rule file stand for, and where its faults are gathered."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.catalog import Catalog
from rewrite_engine.dsl.names import Entry
from rewrite_engine.errors import Diagnostic, Note
from rewrite_engine.source import Source, Span

MAX_SUGGESTIONS: Final = 100
"""Searches for similar names in one load, so that no file takes seconds."""


@attrs.define(eq=False)
class Findings:
    """The diagnostics of one load; a finding that comes up twice is kept once."""

    _found: dict[tuple[str, str, Span], Diagnostic] = attrs.field(factory=dict)
    _places: dict[str, list[tuple[int, int]]] = attrs.field(factory=dict)
    _suggested: int = 0
    _order: dict[str, int] = attrs.field(factory=dict)
    _broken: dict[str, frozenset[Diagnostic]] = attrs.field(factory=dict)

    def register(self, source: Source) -> None:
        """Findings are sorted by the order in which sources are registered."""
        self._order.setdefault(source.name, len(self._order))

    def add_syntax(self, source: Source, found: Iterable[Diagnostic]) -> None:
        """Add faults of syntax; other findings about their source may follow from them
        and are not shown.
        """
        faults = frozenset(found)
        for fault in faults:
            self.add(fault)
        if faults:
            self._broken[source.name] = faults

    def may_suggest(self) -> bool:
        """Whether a search for similar names is still worth its time."""
        self._suggested += 1
        return self._suggested <= MAX_SUGGESTIONS

    def add(self, found: Diagnostic) -> None:
        name, span = found.source.name, found.span
        self._found.setdefault((name, found.code, span), found)
        if found.is_error:
            insort(self._places.setdefault(name, []), (span.start, span.end))

    def any_within(self, source: Source, span: Span) -> bool:
        """Whether an error was found in a stretch of a source."""
        places = self._places.get(source.name)
        if places is None:
            return False
        first = bisect_left(places, (span.start, 0))
        inside = islice(places, first, bisect_left(places, (span.end, 0)))
        return any(end <= span.end for _, end in inside)

    def sorted(self) -> tuple[Diagnostic, ...]:
        def place(found: Diagnostic) -> tuple[int, int, str]:
            order = self._order.get(found.source.name, 0)
            return order, found.span.start, found.code

        shown = (f for f in self._found.values() if self._is_shown(f))
        return tuple(sorted(shown, key=place))

    def _is_shown(self, found: Diagnostic) -> bool:
        faults = self._broken.get(found.source.name)
        return faults is None or found in faults


@attrs.frozen(eq=False)
class Definition:
    """A named item, and the scope in which the names it uses are looked up."""

    item: nodes.OpDef | nodes.FamilyDef | nodes.PatternDef | nodes.RuleDef
    scope: Scope = attrs.field(repr=False)

    @property
    def name(self) -> str:
        return self.item.name

    @property
    def name_span(self) -> Span:
        if isinstance(self.item, nodes.RuleDef):
            return self.item.name_span
        text, span = self.scope.source.text, self.item.span
        keyword = re.compile(r"\w+").match(text, span.start)
        after = Span(keyword.end(), span.end) if keyword else span
        return span_of_name(self.scope.source, after, self.name)

    def note(self, message: str) -> Note:
        """A remark that points at this definition."""
        return Note(message, self.name_span, self.scope.source)


@attrs.define(eq=False)
class Scope:
    """The definitions visible in one file; `enclosing` is the prelude's scope.

    Rules have names of their own: a rule and an operator may be called alike.
    `names` are those within each rule and test, by its span, once it is resolved.
    """

    source: Source
    catalog: Catalog
    findings: Findings
    enclosing: Scope | None = None
    definitions: dict[str, Definition] = attrs.field(factory=dict)
    rules: dict[str, Definition] = attrs.field(factory=dict)
    names: dict[Span, Mapping[str, Entry]] = attrs.field(factory=dict)

    def report(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        notes: tuple[Note, ...] = (),
        hint: str | None = None,
    ) -> None:
        found = Diagnostic(code, message, span, self.source, notes, hint)
        self.findings.add(found)

    def define(self, definition: Definition, span: Span | None = None) -> None:
        """Make a definition visible; `span` is where an imported one is asked for."""
        is_rule = isinstance(definition.item, nodes.RuleDef)
        table = self.rules if is_rule else self.definitions
        earlier = table.setdefault(definition.name, definition)
        if earlier is not definition:
            self.report(
                "E204",
                f"`{definition.name}` is defined twice",
                span or definition.name_span,
                notes=(earlier.note("first defined here"),),
            )

    def find(self, name: str) -> Definition | None:
        """The operator class, family or pattern of a name."""
        found = self.definitions.get(name)
        if found is None and self.enclosing is not None:
            return self.enclosing.find(name)
        return found

    def prelude(self) -> Scope:
        """The outermost scope, where the infix operators are looked up."""
        return self if self.enclosing is None else self.enclosing.prelude()

    def did_you_mean(self, name: str, known: Iterable[str]) -> str | None:
        """A hint with the known names most like `name`, for the first such faults."""
        return did_you_mean(name, known) if self.findings.may_suggest() else None

    def visible(self) -> tuple[str, ...]:
        """The names of all operator classes, families and patterns."""
        outer = self.enclosing.visible() if self.enclosing else ()
        return (*self.definitions, *outer)


def span_of_name(source: Source, within: Span, name: str) -> Span:
    """Where a name first stands as a whole word in a stretch of the source."""
    word = rf"(?<![\w.$]){re.escape(name)}(?!\w)"
    found = re.search(word, within.of(source.text))
    if found is None:
        return within
    return Span(within.start + found.start(), within.start + found.end())


def spans_of_names(source: Source, within: Span) -> dict[str, Span]:
    """Where each word first stands in a stretch of the source."""
    found: dict[str, Span] = {}
    for word in re.finditer(r"(?<![\w.$])\w+'?", within.of(source.text)):
        start, end = word.span()
        place = Span(within.start + start, within.start + end)
        found.setdefault(word[0], place)
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint with the known names that look most like `name`, if any do."""
    return suggestion(similar(name, known))


def similar(name: str, known: Iterable[str]) -> list[str]:
    """The known names that look most like `name`; `pad` also means `padding`."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name[:64], names, 3, 0.7)
    return close or [n for n in names if len(name) > 2 and n.startswith(name)][:3]


def counted(count: int, noun: str) -> str:
    """`1 operand`, `2 operands`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def suggestion(candidates: Iterable[str]) -> str | None:
    """`did you mean a or b?`, None without candidates."""
    quoted = [f"`{candidate}`" for candidate in candidates]
    return f"did you mean {' or '.join(quoted)}?" if quoted else None
