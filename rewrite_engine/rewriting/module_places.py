"""New nodes stand where their module runs.

`torch.export.unflatten` makes a module of the nodes that name it and follow each other.
All new nodes of a match are made in one place, so those of an earlier module would
stand behind nodes of a later one: a fused convolution behind the counter of its
BatchNorm, which would then come in two parts.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import groupby

from torch import fx

from rewrite_engine.edit import operands_of
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.effect import Effect


def settle(
    match: Match, built: Built, effects: Mapping[fx.Node, Effect], aliases: AliasIndex
) -> None:
    """Move new nodes to the first matched call of their module, if nothing in between
    can tell the difference.

    `effects` says what running each new node does.
    """
    copied = frozenset(built.copies.values())  # their effects are those of the copies
    for first, nodes in _strays(match.calls, built.created):
        touched = [*nodes, *(n for node in nodes for n in operands_of(node))]
        if not (
            any(effects[node].effectful for node in nodes)
            or aliases.writes_between(touched, first, nodes[0], copied)
        ):
            _move(nodes, first)


def settle_pure(calls: Iterable[fx.Node], created: Iterable[fx.Node]) -> None:
    """Move new nodes to the first matched call of their module, where neither they nor
    what is in between have an effect. `calls` are the matched ones, in graph order.
    """
    for first, nodes in _strays(dict.fromkeys(calls), created):
        _move(nodes, first)


def _strays(
    calls: Mapping[fx.Node, object], created: Iterable[fx.Node]
) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """New nodes that stand apart from the first call of their module, and that call, if
    all they read is there before it. They are moved before the next are asked for.
    """
    made = (node for node in created if node.op != "placeholder")
    for module, group in groupby(made, _module_of):
        nodes = list(group)
        first = next((c for c in calls if _module_of(c) == module), None)
        if module is None or first is None or not _is_apart(first, nodes[0], calls):
            continue
        read = [n for node in nodes for n in operands_of(node) if n not in nodes]
        if all(operand < first for operand in read):
            yield first, nodes


def _move(nodes: Iterable[fx.Node], first: fx.Node) -> None:
    for node in nodes:
        first.prepend(node)


def _module_of(node: fx.Node) -> str | None:
    """What the record of a node calls this run of the innermost module around it."""
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack)) if stack else None


def _is_apart(first: fx.Node, new: fx.Node, calls: Container[fx.Node]) -> bool:
    """Whether other nodes than matched calls stand between one of these and `new`."""
    node = new.prev
    while first < node and node in calls:
        node = node.prev
    return first < node
