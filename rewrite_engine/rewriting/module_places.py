"""New nodes stand where their module runs.

`torch.export.unflatten` makes a module of the nodes that name it and follow each other.
All new nodes of a match are made in one place, so those of an earlier module would
stand behind nodes of a later one: a fused convolution behind the counter of its
BatchNorm, which would then come in two parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

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
    calls = (node for node in built.created if node.op != "placeholder")
    copied = frozenset(built.copies.values())  # their effects are those of the copies
    for module, group in groupby(calls, _module_of):
        nodes = list(group)
        first = next((c for c in match.calls if _module_of(c) == module), None)
        if module is None or first is None or not _is_apart(first, nodes[0], match):
            continue
        read = [n for node in nodes for n in operands_of(node) if n not in nodes]
        may_move = (
            not any(effects[node].effectful for node in nodes)
            and all(operand < first for operand in read)
            and not aliases.writes_between([*read, *nodes], first, nodes[0], copied)
        )
        for node in nodes if may_move else ():
            first.prepend(node)


def follow_each_other(nodes: Sequence[fx.Node], calls: Sequence[int]) -> bool:
    """Whether nothing stands between some of the nodes, given by index in graph order,
    so that new ones in the place of the last need not move.
    """
    return all(nodes[a].next is nodes[b] for a, b in pairwise(calls))


def _module_of(node: fx.Node) -> str | None:
    """What the record of a node calls this run of the innermost module around it."""
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack)) if stack else None


def _is_apart(first: fx.Node, new: fx.Node, match: Match) -> bool:
    """Whether other nodes than those of a match stand between its call and `new`."""
    node = new.prev
    while first < node and node in match.calls:
        node = node.prev
    return first < node
