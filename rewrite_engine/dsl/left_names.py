"""The names of a left side: what each stands for, in the rule and inside patterns."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import (
    Anything,
    Captured,
    Literal,
    LiteralVariable,
    Others,
    Reference,
    Term,
    TorchConstant,
    Variable,
)
from rewrite_engine.dsl.functions import TORCH_CONSTANTS
from rewrite_engine.dsl.names import DESCRIPTIONS, Entry, NameKind, words_of
from rewrite_engine.dsl.scopes import Definition, Scope
from rewrite_engine.source import Span


@attrs.frozen(eq=False)
class Frame:
    """Where an expression stands: in a rule, or in the body of a pattern.

    `parameters` gives the terms of a pattern's parameters, literals under `$name`.
    `site` is the call that is expanded, the place of every term of its expansion.
    """

    scope: Scope
    parameters: Mapping[str, Term] = attrs.field(factory=dict)
    site: Span | None = None
    expanding: tuple[Definition, ...] = ()
    locals: dict[str, str] = attrs.field(factory=dict)

    def place(self, span: Span) -> Span:
        return span if self.site is None else self.site


@attrs.define(eq=False)
class LeftNames:
    """The names of one left side.

    `entries` are those of the rule itself, filled as they are met; names local to a
    pattern become fresh names that are not among the words of the rule's `text`.
    """

    text: str
    entries: dict[str, Entry] = attrs.field(factory=dict)
    captured: dict[str, Captured] = attrs.field(factory=dict)

    @functools.cached_property
    def _words(self) -> set[str]:
        """The names that are taken."""
        return words_of(self.text)

    def declare(self, scope: Scope, name: str, kind: NameKind, span: Span) -> None:
        """Note that a name of the rule is used as `kind`; once one, never another."""
        earlier = self.entries.setdefault(name, Entry(name, kind, span))
        if earlier.kind != kind:
            message = f"{earlier.describe()}, here it is {DESCRIPTIONS[kind]}"
            hint = f"write `${name}`" if earlier.kind == "literal" else None
            notes = (earlier.note(),)
            text = message.format(name)
            scope.report("E203", text, span, notes=notes, hint=hint)

    @contextlib.contextmanager
    def forgotten(self) -> Iterator[None]:
        """Names that are met meanwhile are not kept."""
        entries, captured = dict(self.entries), dict(self.captured)
        yield
        self.entries.clear()
        self.entries.update(entries)
        self.captured = captured

    def value(self, expr: nodes.Name, frame: Frame) -> Term:
        """The term of a name without a sign."""
        name, span = expr.id, frame.place(expr.span)
        if name in frame.parameters:
            return frame.parameters[name]
        if name in TORCH_CONSTANTS:
            return Literal(TorchConstant(name), span=span)
        if "." in name or "'" in name:
            message = f"`{name}` names nothing that a pattern can match"
            frame.scope.report("E202", message, expr.span)
            return Anything(span=span)
        if frame.expanding:
            return Variable(self._local(name, frame), span=span)
        entry = self.entries.get(name)
        if entry is not None and entry.kind == "call":
            return Reference(name, span=span)
        self.declare(frame.scope, name, "variable", expr.span)
        return Variable(name, span=span)

    def literal(self, expr: nodes.LiteralName, frame: Frame) -> Term:
        """The term of `$name`."""
        name, span = expr.id, expr.span
        if f"${name}" in frame.parameters:
            return frame.parameters[f"${name}"]
        if frame.expanding:
            local = self._local(f"${name}", frame)
            return LiteralVariable(local, span=frame.place(span))
        self.declare(frame.scope, name, "literal", span)
        return LiteralVariable(name, span=span)

    def others(self, expr: nodes.Star, frame: Frame) -> Others:
        """The term of `*names`."""
        if frame.expanding:
            return Others(self._local(expr.id, frame), span=frame.place(expr.span))
        self.declare(frame.scope, expr.id, "list", expr.span)
        return Others(expr.id, span=expr.span)

    def capture(
        self, expr: nodes.Capture, term: Term, hole: Term | None, frame: Frame
    ) -> Captured:
        """The term of `N@p` for that of `p`."""
        span = frame.place(expr.span)
        if frame.expanding:
            return Captured(self._local(expr.id, frame), term, hole, span=span)
        earlier = self.entries.get(expr.id)
        if expr.id in self.captured and earlier is not None:
            message = f"`{expr.id}` already names a capture"
            frame.scope.report("E204", message, span, notes=(earlier.note(),))
        self.declare(frame.scope, expr.id, "capture", span)
        captured = Captured(expr.id, term, hole, span=span)
        self.captured.setdefault(expr.id, captured)
        return captured

    def _local(self, name: str, frame: Frame) -> str:
        """A name of its own for a name inside a pattern, for this expansion."""
        if name not in frame.locals:
            stem = f"{frame.expanding[-1].name}_{name.lstrip('$')}"
            count = 1
            while f"{stem}_{count}" in self._words:
                count += 1
            frame.locals[name] = f"{stem}_{count}"
            self._words.add(frame.locals[name])
        return frame.locals[name]
