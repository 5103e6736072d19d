"""Rule text to syntax tree. The language is `grammar/rules.lark`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from rewrite_engine.dsl import lalr, nodes
from rewrite_engine.dsl.builder import Builder
from rewrite_engine.dsl.scanner import Scan, scan, split_items
from rewrite_engine.dsl.syntax_errors import explain
from rewrite_engine.dsl.walk import moved
from rewrite_engine.errors import Diagnostic, RuleError
from rewrite_engine.source import Source, Span

MAX_DEPTH = 160
"""Levels of a syntax tree, so that its visitors may recurse."""

MAX_SYNTAX_ERRORS = 50


@attrs.frozen
class Part:
    """A stretch of a file that parses on its own: its text, and its items."""

    text: str
    span: Span
    items: tuple[nodes.Item, ...]
    docs: tuple[Span, ...]
    """Comments that are documentation of the items."""
    levels: int
    """How deep the items are nested, at most."""


@attrs.frozen
class Reading:
    """What of a text is right, and every fault of the rest, in order."""

    file: nodes.File
    problems: tuple[Diagnostic, ...]
    parts: tuple[Part, ...] = ()


NOTHING_KNOWN: Mapping[str, Part] = {}


def parse(source: Source) -> nodes.File:
    """The syntax tree of a rule file. Raises RuleError with every fault found."""
    reading = read(source)
    if reading.problems:
        raise RuleError(reading.problems)
    return reading.file


def read(source: Source, known: Mapping[str, Part] = NOTHING_KNOWN) -> Reading:
    """The items of a rule file that parse, whatever is wrong with the others.

    After a syntax error, reading resumes at the next line that seems to start an item.
    `known` are parts of earlier readings by their text; they are not parsed again.
    """
    overview = scan(source)
    if overview.is_unfit:
        return Reading(nodes.File(()), overview.problems)
    reader = _Reader(source, overview, known)
    reader.read()
    docs = {span for part in reader.parts for span in part.docs}
    comments = tuple(c for c in overview.comments if c.span not in docs)
    items = tuple(item for part in reader.parts for item in part.items)
    problems = overview.problems or _in_order(reader.problems)
    return Reading(nodes.File(items, comments), problems, tuple(reader.parts))


@attrs.define
class _Reader:
    """Parses a source part by part; what is wrong with one concerns no other."""

    source: Source
    overview: Scan
    known: Mapping[str, Part]
    parts: list[Part] = attrs.field(factory=list)
    problems: list[Diagnostic] = attrs.field(factory=list)
    _errors: int = 0

    def read(self) -> None:
        pending = list(split_items(self.source.text))[::-1]
        while pending and self._errors < MAX_SYNTAX_ERRORS:
            span = pending.pop()
            if self._read(span, joined=span.to(pending[-1]) if pending else None):
                pending.pop()

    def _read(self, span: Span, joined: Span | None) -> bool:
        """Read a part; True if it only parses together with the one that follows."""
        known = self.known.get(self._text(span))
        if known is not None:
            self.parts.append(_moved(known, span))
            return False
        if any(_overlap(problem.span, span) for problem in self.overview.problems):
            return False
        try:
            self._parse(span)
        except lalr.SyntaxFault as fault:
            ends = fault.kind == lalr.END
            if joined is not None and ends and self._try(joined):
                return True
            self._errors += 1
            found = explain(self.source, self.overview, span, fault)
            self.problems.append(found)
        return False

    def _try(self, span: Span) -> bool:
        """Whether a part parses, such as one whose line `op in F` goes on a `for`."""
        try:
            self._parse(span)
        except lalr.SyntaxFault:
            return False
        return True

    def _parse(self, span: Span) -> None:
        builder = Builder(self.source, self.overview.comments)
        try:
            items, levels = lalr.parse(self.source.text, span, builder, MAX_DEPTH)
        except lalr.TooDeep as deep:
            message = "this expression is too long or nested too deep"
            hint = "give its parts names, `part = …`"
            found = Diagnostic("E105", message, deep.span, self.source, hint=hint)
            self.problems.append(found)
            return
        self.problems += builder.problems
        if not builder.problems:
            docs = tuple(builder.docs)
            self.parts.append(Part(self._text(span), span, items, docs, levels))

    def _text(self, span: Span) -> str:
        return span.of(self.source.text)


def _in_order(problems: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    return tuple(sorted(problems, key=lambda found: found.span.start))


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def _moved(part: Part, span: Span) -> Part:
    by = span.start - part.span.start
    return moved(part, by) if by else part
