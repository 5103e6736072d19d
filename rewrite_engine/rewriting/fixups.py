"""Metadata of the nodes that a rewrite created, and of those that refer to old ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import attrs
from torch import fx

from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting import metadata
from rewrite_engine.rewriting.annotations import keep_output_spec
from rewrite_engine.rewriting.build import Built

Edge = tuple[fx.Node, fx.Node]
"""An operand and the node that reads it."""


def describe(match: Match, built: Built) -> None:
    """Give every created node its metadata: place, history, annotations."""
    created, heirs = set(built.created), heirs_of(built)
    statements = [*_stated(match, built)] if match.rule.meta else []
    stated = {new: old for new, old, keys in statements if not keys}
    nearest = list(match.calls)
    history = metadata.provenance(match.rule.title, nearest)
    place = metadata.place_of(nearest)
    for node in built.created:
        if node in stated:
            metadata.inherit(node, stated[node])
        elif node in heirs:
            metadata.inherit(node, heirs[node])
        if node in stated or node not in heirs:
            metadata.fill(node, place)
        node.meta["from_node"] = list(history)
    for old, new in built.replaced.items():
        if new in created:
            metadata.keep_value(new, old)
            if new in stated:
                keep_output_spec(new, old)
    for new, old, keys in statements:
        metadata.copy_keys(new, old, keys)


def heirs_of(built: Built) -> dict[fx.Node, fx.Node]:
    """The new nodes that take over what a matched one carries, with it."""
    created = set(built.created)
    heirs = {new: old for old, new in built.replaced.items() if new in created}
    return heirs | {new: old for new, old in built.copies.items() if new not in heirs}


def _stated(
    match: Match, built: Built
) -> Iterator[tuple[fx.Node, fx.Node, Collection[str]]]:
    """The rule's own `meta a <- b {keys}` statements; without keys, all is meant."""
    for statement in match.rule.meta:
        source = match.bindings.get(statement.source)
        for name in statement.names:
            target = built.names.get(name)
            if isinstance(target, fx.Node) and isinstance(source, fx.Node):
                yield target, source, statement.keys


@attrs.define(eq=False)
class Moves:
    """Where nodes and edges of all rewrites of a run went, for annotations."""

    nodes: dict[fx.Node, fx.Node] = attrs.field(factory=dict)
    edges: dict[Edge, Edge] = attrs.field(factory=dict)

    @staticmethod
    def of(match: Match, built: Built) -> Moves:
        """The moves of one match, read before its old nodes lose their operands."""
        edges = {
            (before, old): (after, new)
            for new, old in _successors(built)
            if old in match.calls
            for before, after in _paired_operands(old, new)
        }
        return Moves(dict(built.replaced), edges)

    def update(self, later: Moves) -> None:
        self.nodes.update(later.nodes)
        self.edges.update(later.edges)


def _successors(built: Built) -> Iterator[tuple[fx.Node, fx.Node]]:
    yield from built.copies.items()
    for old, new in built.replaced.items():
        if built.copies.get(new) is not old:
            yield new, old


def _paired_operands(old: fx.Node, new: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """The operands of an old call and what stands in their place in the new one."""
    if old.target != new.target:
        return
    pairs = [*zip(old.args, new.args, strict=False)]
    pairs += [(old.kwargs[k], new.kwargs[k]) for k in old.kwargs if k in new.kwargs]
    for before, after in pairs:
        if isinstance(before, fx.Node) and isinstance(after, fx.Node):
            yield before, after
