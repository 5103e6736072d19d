"""The statements of a right side, in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal as OneOf

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Build, Choose, CopyMeta, Create, Initial, Value
from rewrite_engine.dsl.environment import Names
from rewrite_engine.dsl.names import Entry, NameKind
from rewrite_engine.dsl.scopes import span_of_name, spans_of_names
from rewrite_engine.dsl.values import (
    Right,
    is_hook,
    makes_value,
    may_be_absent,
    values_in,
)
from rewrite_engine.dsl.walk import names_read
from rewrite_engine.errors import Note
from rewrite_engine.source import Span


@attrs.frozen
class RightSide:
    """What the right side of a rule comes to."""

    creates: tuple[Create, ...]
    meta: tuple[CopyMeta, ...]
    keep: Names
    erase: Names


def resolve_right(
    right: Right, rule: nodes.RuleDef, guards: tuple[nodes.Expr, ...]
) -> RightSide:
    """The right side of a rule whose left side has the given guards."""
    # `where b` leaves only matches in which b is there.
    tested = (right.env.present_if(guard) for guard in guards)
    statements = Statements(right, frozenset[str]().union(*tested))
    for statement in rule.right:
        statements.add(statement)
    statements.report_unused()
    return RightSide(
        tuple(statements.creates),
        tuple(statements.meta),
        frozenset(statements.keep),
        frozenset(statements.erase),
    )


@attrs.define(eq=False)
class Statements:
    """Resolves statements one after the other; each may read those before it."""

    right: Right
    present: Names = frozenset()
    creates: list[Create] = attrs.field(factory=list)
    meta: list[CopyMeta] = attrs.field(factory=list)
    keep: set[str] = attrs.field(factory=set)
    erase: set[str] = attrs.field(factory=set)
    _made: dict[str, Span] = attrs.field(factory=dict)
    _loose: set[str] = attrs.field(factory=set)

    def add(self, statement: nodes.RightStatement) -> None:
        """Resolve a statement; its faults are reported."""
        match statement:
            case nodes.Bind():
                self._bind(statement)
            case nodes.Replace():
                self._replace(statement)
            case nodes.Constructed():
                self._construct(statement)
            case nodes.Meta():
                self._copy_meta(statement)
            case nodes.Keep(names, span=span):
                self._mark(names, self.keep, self.erase, span)
            case nodes.Erase(names, span=span):
                self._mark(names, self.erase, self.keep, span)
            case nodes.Assign():
                self._assign(statement)

    def _bind(self, statement: nodes.Bind) -> None:
        value = self.graph_value(statement.value, optional=True)
        span = statement.span.first(len(statement.name))
        self._declare(statement.name, "node", span)
        self._note_tensor(statement.name, value)
        if may_be_absent(value):
            env = self.right.env
            env.presence = env.presence.and_optional(statement.name)
        create = Create("node", statement.name, value, span=statement.span)
        self.creates.append(create)

    def _replace(self, statement: nodes.Replace) -> None:
        value = self.graph_value(statement.value)
        name = statement.name
        span = statement.span.first(len(name))
        entry = self.right.env.entries.get(name)
        if entry is None or entry.kind not in ("call", "capture"):
            what = f"`{name}` is not bound" if entry is None else entry.describe()
            notes = () if entry is None else (entry.note(),)
            message = f"only a matched call is replaced, and {what}"
            self._report("E504", message, span, notes)
        primed = f"{name}'"
        earlier = self.right.env.entries.get(primed)
        if earlier is not None:
            notes = (Note("first replaced here", earlier.span),)
            self._report("E204", f"`{name}` is replaced twice", span, notes)
        self.right.env.entries[primed] = Entry(primed, "node", span)
        self._note_tensor(primed, value)
        create = Create("node", name, value, replaces=True, span=statement.span)
        self.creates.append(create)

    def _construct(self, statement: nodes.Constructed) -> None:
        kind, name = statement.kind, statement.name
        value = self.right.value(statement.value, self.present)
        is_optional = may_be_absent(value)
        if self._is_literal(value) and not is_optional:
            message = f"a {kind} is a tensor, and this is a literal"
            hint = "a number is written where it is used"
            self._report("E401", message, _literal_in(value).span, hint=hint)
        self._check_stage(statement, kind)
        if kind == "value":
            self._loose.add(name)
        after = Span(statement.span.start + len(kind), statement.span.end)
        self._declare(name, "constant", self._name_span(after, name))
        self._note_tensor(name, value)
        if is_optional:
            self.right.env.presence = self.right.env.presence.and_optional(name)
        self.creates.append(Create(kind, name, value, span=statement.span))

    def _assign(self, statement: nodes.Assign) -> None:
        name, env = statement.target, self.right.env
        entry = env.entries.get(name)
        span = self._name_span(statement.span, name)
        env.read.add(name)
        if entry is None or entry.kind not in ("variable", "each"):
            what = f"`{name}` is not bound" if entry is None else entry.describe()
            hint = None
            if "." in name:
                hint = (
                    f"name the operand in the call: `…, {name.partition('.')[2]}=w, ..`"
                )
            message = f"only an operand of the left side is written, and {what}"
            self._report("E512", message, span, hint=hint)
            return
        # What is absent is not written.
        with self._one_link():
            value = self.right.value(statement.value, self.present | {name})
        if self._is_literal(value):
            message = "a tensor is needed, and this is a literal"
            self._report("E401", message, statement.value.span)
        self._check_stage(statement, "value to be stored")
        kind: OneOf["write", "own"] = "own" if statement.own else "write"
        self.creates.append(Create(kind, name, value, span=statement.span))

    @contextmanager
    def _one_link(self) -> Iterator[None]:
        """A write is done for each link: there, a name of one is a single value."""
        entries = self.right.env.entries
        lists = {name: e for name, e in entries.items() if e.kind == "each"}
        for name, entry in lists.items():
            entries[name] = attrs.evolve(entry, kind="variable")
        yield
        entries.update(lists)

    def _check_stage(
        self, statement: nodes.Constructed | nodes.Assign, what: str
    ) -> None:
        """Report nodes of the right side, which are not there yet."""
        for name in sorted(names_read(statement.value)):
            entry = self.right.env.entries.get(name)
            if entry is None or entry.kind != "node":
                continue
            message = (
                f"`{name}` is a node of the new graph, and a {what}"
                " is computed before there is one"
            )
            span = self._name_span(statement.value.span, name)
            self._report("E406", message, span, (entry.note(),))

    def _copy_meta(self, statement: nodes.Meta) -> None:
        spans = spans_of_names(self.right.env.scope.source, statement.span)
        for name in statement.names:
            self._check_made(name, spans.get(name, statement.span))
        span = spans.get(statement.source, statement.span)
        self.right.env.value(statement.source, span)
        self.meta.append(
            CopyMeta(
                statement.names, statement.source, statement.keys, span=statement.span
            )
        )

    def report_unused(self) -> None:
        """Warn of names that nothing reads; `_name` says that this is meant."""
        for name, span in self._made.items():
            if name not in self.right.env.read and not name.startswith("_"):
                is_node = self.right.env.entries[name].kind == "node"
                hint = "what a rule matched is replaced by `name' = …`"
                message = f"`{name}` is never used"
                self._report("W201", message, span, (), hint if is_node else None)

    def graph_value(self, expr: nodes.Expr, *, optional: bool = False) -> Value:
        """A resolved value that a node computes; anything else is reported."""
        value = self.right.value(expr, self.present)
        if self._is_literal(value) and not (optional and may_be_absent(value)):
            message = "a graph value is needed, and this is a literal"
            self._report("E401", message, _literal_in(value).span)
        self._check_is_lasting(value)
        for name in sorted(names_read(expr) & self._loose) if self._loose else ():
            message = f"`{name}` is not stored, so no node of the graph can read it"
            span = self._name_span(expr.span, name)
            hint = f"write `param {name} = …` or `buffer {name} = …`"
            entry = self.right.env.entries[name]
            self._report("E406", message, span, (entry.note(),), hint)
        return value

    def _check_is_lasting(self, value: Value) -> None:
        """Report what is there only while a graph is rewritten."""
        for part in values_in(value):
            if isinstance(part, Initial):
                message = "what a state was at first is no value of the graph"
            elif isinstance(part, Build) and is_hook(part.operator):
                message = "a hook is called while rewriting, and never by the graph"
            else:
                continue
            hint = "it is for `value`, `param`, `buffer` and `<-`"
            self._report("E406", message, part.span, hint=hint)

    def _is_literal(self, value: Value) -> bool:
        """Whether a value is no graph value although nothing is wrong with it."""
        findings = self.right.env.scope.findings
        return not makes_value(value) and not findings.any_within(
            self.right.env.scope.source, value.span
        )

    def _declare(self, name: str, kind: NameKind, span: Span) -> None:
        earlier = self.right.env.entries.get(name)
        if earlier is not None:
            hint = f"`{name}' = …` says what the matched `{name}` becomes"
            message = f"`{name}` is bound already"
            is_call = earlier.kind == "call"
            self._report(
                "E204", message, span, (earlier.note(),), hint if is_call else None
            )
            return
        self.right.env.entries[name] = Entry(name, kind, span)
        self._made[name] = span

    def _note_tensor(self, name: str, value: Value) -> None:
        if self.right.kind(value) == "tensor":
            self.right.env.tensors.add(name)

    def _check_made(self, name: str, span: Span) -> None:
        """Report a target of `meta` that is no node of the right side."""
        entry = self.right.env.value(name, span)
        if entry is not None and entry.kind not in ("node", "constant"):
            message = f"{entry.describe()}; metadata is copied to new nodes"
            self._report("E202", message, span, (entry.note(),))

    def _mark(
        self, names: tuple[str, ...], chosen: set[str], other: set[str], within: Span
    ) -> None:
        spans = spans_of_names(self.right.env.scope.source, within)
        for name in names:
            entry = self.right.env.entries.get(name)
            span = spans.get(name, within)
            if entry is None or entry.kind not in ("call", "capture"):
                what = f"`{name}` is not bound" if entry is None else entry.describe()
                message = f"only a matched call is kept or erased, and {what}"
                self._report("E510", message, span)
            elif name in other:
                message = f"`{name}` is both kept and erased"
                self._report("E510", message, span)
            chosen.add(name)

    def _name_span(self, within: Span, name: str) -> Span:
        return span_of_name(self.right.env.scope.source, within, name)

    def _report(
        self,
        code: str,
        message: str,
        span: Span,
        notes: tuple[Note, ...] = (),
        hint: str | None = None,
    ) -> None:
        scope = self.right.env.scope
        scope.report(code, message, span, notes=notes, hint=hint)


def _literal_in(value: Value) -> Value:
    """What is no graph value in a value that is none: one side of a choice."""
    while isinstance(value, Choose):
        value = value.otherwise if makes_value(value.then) else value.then
    return value
