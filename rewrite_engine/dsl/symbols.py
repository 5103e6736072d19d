"""Where the names of a rule file stand, and what each of them stands for.

The scopes and names are those that loading has found; nothing is resolved again, so a
file whose rules are wrong has symbols as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from typing import Literal as OneOf

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.names import Entry, NameKind
from rewrite_engine.dsl.scanner import blanked
from rewrite_engine.dsl.scopes import Definition, Scope
from rewrite_engine.dsl.walk import walk
from rewrite_engine.source import Source, Span

ItemKind = OneOf["operator", "family", "pattern", "rule", "pipeline"]
SymbolKind = ItemKind | NameKind | OneOf["slot"]

ITEM_KINDS: Final[Mapping[type, ItemKind]] = {
    nodes.OpDef: "operator",
    nodes.FamilyDef: "family",
    nodes.PatternDef: "pattern",
    nodes.RuleDef: "rule",
    nodes.PipelineDef: "pipeline",
}


@attrs.frozen
class Symbol:
    """An item of a file, or a name within one item; known by where it is defined."""

    name: str
    """Without `$` and without prime."""
    span: Span
    """The name where it is defined, or first used if it is defined by its use."""
    source: Source = attrs.field(repr=False)
    kind: SymbolKind = attrs.field(eq=False)
    item: nodes.Item = attrs.field(eq=False, repr=False)
    """The item itself, or the one that a name is local to."""

    @property
    def is_local(self) -> bool:
        """Whether the name means something within its item only."""
        return self.kind not in ITEM_KINDS.values()


@attrs.frozen
class Occurrence:
    """A place where a name stands, without `$` and without prime."""

    span: Span
    symbol: Symbol

    @property
    def is_definition(self) -> bool:
        """Whether this is where its symbol is defined, if it is in the same file."""
        return self.span == self.symbol.span


def symbols_of(scope: Scope, items: Iterable[nodes.Item]) -> tuple[Occurrence, ...]:
    """Every place in a file where a name stands that means something, in order."""
    text = blanked(scope.source.text)
    found = (each for item in items for each in _Names(scope, item, text).find())
    return tuple(sorted(found, key=lambda each: each.span.start))


def symbol_of(definition: Definition) -> Symbol:
    """The symbol of an operator class, family, pattern or rule."""
    item = definition.item
    return Symbol(
        definition.name,
        definition.name_span,
        definition.scope.source,
        ITEM_KINDS[type(item)],
        item,
    )


@attrs.define(eq=False)
class _Names:
    """The names in one item. `text` is the file's, comments and strings blanked."""

    scope: Scope
    item: nodes.Item
    text: str
    _items: list[Occurrence] = attrs.field(factory=list)
    _locals: dict[str, list[Span]] = attrs.field(factory=dict)
    _kinds: dict[str, SymbolKind] = attrs.field(factory=dict)
    _callees: list[nodes.Name] = attrs.field(factory=list)

    def find(self) -> Iterator[Occurrence]:
        if isinstance(self.item, nodes.PipelineDef):
            self._pipeline(self.item)
        elif type(self.item) in ITEM_KINDS:
            self._definition()
        for node in self._parts():
            self._visit(node)
        for callee in self._callees:
            self._call(callee)
        yield from self._items
        for key, spans in self._locals.items():
            symbol = self._local(key, spans)
            yield from (Occurrence(span, symbol) for span in dict.fromkeys(spans))

    def _parts(self) -> Iterator[object]:
        """The nodes below the item whose names are looked at."""
        match self.item:
            case nodes.OpDef():
                return iter(())  # spellings are of the catalog, `when` of a schema
            case nodes.FamilyDef(rows=rows, parameters=parameters):
                self._kinds[parameters[0].id] = "slot"
                heads = (row.values[0] for row in rows)
                names = (head for head in heads if isinstance(head, nodes.Name))
                self._callees += [name for name in names if "." not in name.id]
                return walk(self.item.parameters)
        return walk(self.item)

    # --- items ---

    def _definition(self) -> None:
        assert not isinstance(
            self.item, nodes.Use | nodes.UseHooks | nodes.TestDef | nodes.PipelineDef
        )
        symbol = symbol_of(Definition(self.item, self.scope))
        self._items.append(Occurrence(symbol.span, symbol))

    def _pipeline(self, item: nodes.PipelineDef) -> None:
        _, name = self._words(item.span)[:2]
        symbol = Symbol(item.name, name, self.scope.source, "pipeline", item)
        self._items.append(Occurrence(name, symbol))

    def _refer(self, found: Definition | None, span: Span) -> None:
        if found is not None:
            self._items.append(Occurrence(span, symbol_of(found)))

    # --- what stands below an item ---

    def _visit(self, node: object) -> None:
        match node:
            case nodes.Use() | nodes.Keep() | nodes.Erase() | nodes.Meta():
                self._listed(node)
            case nodes.Phase(rules=rules, span=span):
                self._rules(rules, span)
            case nodes.ExpectCount(rule, span=span):
                self._refer(self.scope.rules.get(rule), span.first(len(rule)))
            case nodes.ExpectRefusal(rule, span=span):
                self._rules((rule,), span)
            case nodes.ForFamily(parameters, family, span=span):
                self._refer(self.scope.find(family), _last(span, family))
                slots = (p for p in parameters if isinstance(p, nodes.Name))
                self._kinds.update(dict.fromkeys((p.id for p in slots), "slot"))
            case _:
                self._visit_name(node)

    def _listed(self, node: nodes.Use | nodes.Keep | nodes.Erase | nodes.Meta) -> None:
        """Names in a list of words; the first word is that of the statement."""
        end = self.text.find("{", node.span.start, node.span.end)
        span = Span(node.span.start, node.span.end if end < 0 else end)
        for word in self._words(span)[1:]:
            name = word.of(self.text)
            if isinstance(node, nodes.Use):
                self._refer(self.scope.find(name) or self.scope.rules.get(name), word)
            else:
                self._note(name, word)

    def _rules(self, rules: tuple[str, ...], within: Span) -> None:
        for word in self._words(within):
            name = word.of(self.text)
            if name in rules:
                self._refer(self.scope.rules.get(name), word)

    def _visit_name(self, node: object) -> None:
        match node:
            case nodes.Call(callee):
                self._callees.append(callee)
            case nodes.Name(id, span=span) if "." not in id:
                self._note(id, span.first(len(id.rstrip("'"))))
            case nodes.LiteralName(id, span=span):
                is_pattern = isinstance(self.item, nodes.PatternDef)
                # In a pattern, `$s` and `s` are two names.
                key = f"${id}" if is_pattern else id
                self._note(key, Span(span.start + 1, span.end), "literal")
            case nodes.Star(id, span=span):
                self._note(id, _last(span, id), "list")
            case nodes.Rest(str() as of, span=span):
                self._note(of, _last(span, of))
            case nodes.Capture(id, span=span):
                self._note(id, span.first(len(id)), "capture")
            case nodes.Bind(id, span=span) | nodes.Replace(id, span=span):
                self._note(id, span.first(len(id)))
            case nodes.Constructed(kind, id, span=span):
                after = Span(span.start + len(kind), span.end)
                self._note(id, self._words(after)[0])
            case nodes.HasType(id, span=span) | nodes.Given(id, span=span):
                self._note(id, span.first(len(id)))
            case nodes.IsConst(id, span=span) | nodes.StateRead(id, span=span):
                self._note(id, span.first(len(id)))
            case nodes.Matches(id, _, of_readers, span=span):
                self._note(id, self._words(span)[1 if of_readers else 0])
            case nodes.Assign(target, _, own, span=span):
                head = target.partition(".")[0]
                self._note(head, self._words(span)[1 if own else 0])

    def _call(self, callee: nodes.Name) -> None:
        """A callee is a name of the item if that is the family's or a capture."""
        name = callee.id
        if self._kinds.get(name) == "slot" or self._kind(name) == "capture":
            return
        spans = self._locals.get(name, [])
        if callee.span in spans:
            spans.remove(callee.span)
        if not spans:
            self._locals.pop(name, None)
        self._refer(self.scope.find(name), callee.span)

    # --- names within the item ---

    def _note(self, key: str, span: Span, kind: NameKind = "variable") -> None:
        key = key.removesuffix("'")
        if key == "":
            return
        self._locals.setdefault(key, []).append(span)
        if self._kinds.get(key, "variable") == "variable":
            self._kinds[key] = kind

    def _entry(self, key: str) -> Entry | None:
        return self.scope.names.get(self.item.span, {}).get(key)

    def _kind(self, key: str) -> SymbolKind | None:
        entry = self._entry(key)
        return self._kinds.get(key) if entry is None else entry.kind

    def _local(self, key: str, spans: list[Span]) -> Symbol:
        entry = self._entry(key)
        defined = None if entry is None else _defined(entry, spans)
        first = min(spans, key=lambda span: span.start)
        kind = self._kind(key) or "variable"
        name = key.removeprefix("$")
        return Symbol(name, defined or first, self.scope.source, kind, self.item)

    def _words(self, within: Span) -> list[Span]:
        """Where the words of a stretch of the file stand, without signs and primes."""
        found = re.finditer(r"\w+", within.of(self.text))
        return [
            Span(within.start + word.start(), within.start + word.end())
            for word in found
        ]


def _defined(entry: Entry, spans: list[Span]) -> Span | None:
    """Where an entry's name stands among places of it; `entry.span` may hold a `$`."""
    return next(
        (s for s in spans if entry.span.start <= s.start and s.end <= entry.span.end),
        None,
    )


def _last(span: Span, name: str) -> Span:
    return Span(span.end - len(name), span.end)
