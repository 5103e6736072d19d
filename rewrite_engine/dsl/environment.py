"""The names that a guard, a condition or literal arithmetic may read."""

from __future__ import annotations

from typing import Final

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.functions import DTYPES
from rewrite_engine.dsl.names import Entry
from rewrite_engine.dsl.presence import NOTHING_OPTIONAL, Presence
from rewrite_engine.dsl.scopes import Scope, similar, suggestion
from rewrite_engine.source import Span

LEFT: Final = frozenset({"variable", "list", "each", "call", "capture"})
"""Kinds of names that stand for graph values of the left side."""

VALUES: Final = LEFT | {"node", "constant"}

Names = frozenset[str]

_FEW: Final = 8
"""So many names are listed where none looks like the one that is not bound."""


@attrs.define(eq=False)
class Environment:
    """The names that an expression may read.

    `slot` is the operator of the rule's family, `tensors` are the names of graph values
    that are no numbers. Optional names may be read where `present` has them; in guards,
    which do not hold for what is absent, everywhere.
    """

    scope: Scope
    entries: dict[str, Entry]
    presence: Presence = NOTHING_OPTIONAL
    slot: str | None = None
    is_guard: bool = False
    read: set[str] = attrs.field(factory=set)
    tensors: set[str] = attrs.field(factory=set)

    def value(self, name: str, span: Span) -> Entry | None:
        """The entry of a name that must be a graph value; None: reported."""
        entry = self._entry(name, span, name)
        if entry is None or entry.kind in VALUES:
            return entry
        message = f"{entry.describe()}, and a graph value is needed"
        hint = f"write `${name}`"
        self.scope.report("E203", message, span, notes=(entry.note(),), hint=hint)
        return None

    def literal(self, name: str, span: Span) -> Entry | None:
        """The entry of a name written `$name`; None: reported."""
        entry = self._entry(name, span, f"${name}")
        if entry is None or entry.kind == "literal":
            return entry
        hint = f"write `{name}`"
        notes = (entry.note(),)
        self.scope.report("E203", entry.describe(), span, notes=notes, hint=hint)
        return None

    def _entry(self, name: str, span: Span, written: str) -> Entry | None:
        self.read.add(name)
        entry = self.entries.get(name)
        if entry is None:
            hint = self._hint(name)
            self.scope.report("E202", f"`{written}` is not bound", span, hint=hint)
        return entry

    def _hint(self, name: str) -> str | None:
        if name in DTYPES:
            return f"the dtype is written `torch.{DTYPES[name]}`"
        if not self.scope.findings.may_suggest():
            return None
        close = similar(name, self.entries)
        if not close and 0 < len(self.entries) <= _FEW:
            names = ", ".join(f"`{self._written(n)}`" for n in sorted(self.entries))
            return f"the names here are {names}"
        return suggestion(map(self._written, close))

    def _written(self, name: str) -> str:
        return f"${name}" if self.entries[name].kind == "literal" else name

    def check_present(self, entry: Entry, present: Names, span: Span) -> None:
        """Report a name that may be absent where it is read."""
        if self.is_guard or entry.name not in self.presence.optional - present:
            return
        sign = "$" if entry.kind == "literal" else ""
        message = f"`{sign}{entry.name}` may be absent here"
        hint = f"write `… if {sign}{entry.name} else …`"
        self.scope.report("E405", message, span, notes=(entry.note(),), hint=hint)

    def present_if(self, condition: nodes.Expr, holds: bool = True) -> Names:
        """Names that are present when a condition holds, or when it does not."""
        return self.presence.with_implied(_tested(condition, holds))


def _tested(condition: nodes.Expr, holds: bool) -> Names:
    match condition:
        case nodes.Name(id) | nodes.LiteralName(id) if holds:
            return frozenset({id})
        case nodes.Not(value):
            return _tested(value, not holds)
        case nodes.And(left, right) if holds:
            return _tested(left, True) | _tested(right, True)
        case nodes.Or(left, right) if not holds:
            return _tested(left, False) | _tested(right, False)
    return frozenset()
