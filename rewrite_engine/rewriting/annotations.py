"""References to nodes inside metadata follow the nodes that rewrites moved.

Quantizers annotate nodes with objects that name other nodes: the keys of an
`input_qspec_map`, the node or edge that a spec is shared with or derived from. The
objects are recognised by their structure, so no quantization library is needed, and
changed ones are copies: an annotation may be shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from torch import fx

Edge = tuple[fx.Node, fx.Node]
"""An operand and the node that reads it."""

_DEEPEST = 8
"""How far inside a metadata value references are looked for."""

_LEFT_ALONE = frozenset(
    {
        "val",
        "example_value",
        "tensor_meta",
        "from_node",
        "nn_module_stack",
        "source_fn_stack",
        "stack_trace",
        "torch_fn",
        "original_aten",
    }
)
_UNCHANGED = (str, int, float, bool, type(None), type)


def retarget(
    nodes: Iterable[fx.Node],
    moved: Mapping[fx.Node, fx.Node],
    edges: Mapping[Edge, Edge],
) -> list[Callable[[], object]]:
    """Make the metadata of `nodes` refer to what took the place of moved nodes.

    `moved` maps old nodes to new ones; `edges` maps an operand and its old reader to
    the operand that stands there now and the new reader. Both are followed as often as
    they lead on. Returns the functions that undo each change.
    """
    moves = _Moves(moved, edges)
    undo: list[Callable[[], object]] = []
    for node in nodes:
        for key, value in node.meta.items():
            if key in _LEFT_ALONE or isinstance(value, _UNCHANGED):
                continue
            changed = moves.follow(value, node, _DEEPEST)
            if changed is not value:
                node.meta[key] = changed
                undo.append(lambda m=node.meta, k=key, v=value: m.update({k: v}))  # type: ignore[misc]
    return undo


@attrs.frozen(eq=False)
class _Moves:
    """The moves of a run, and for each new reader the operands that were exchanged."""

    moved: Mapping[fx.Node, fx.Node]
    edges: Mapping[Edge, Edge]
    operands: dict[fx.Node, dict[fx.Node, fx.Node]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        operands: dict[fx.Node, dict[fx.Node, fx.Node]] = {}
        for source, reader in self.edges:
            new_source, new_reader = self.edge((source, reader))
            operands.setdefault(new_reader, {})[source] = new_source
        object.__setattr__(self, "operands", operands)

    def node(self, node: fx.Node) -> fx.Node:
        while node in self.moved:
            node = self.moved[node]
        return node

    def edge(self, edge: Edge) -> Edge:
        while edge in self.edges:
            edge = self.edges[edge]
        return self.node(edge[0]), self.node(edge[1])

    def follow(self, value: Any, owner: fx.Node, depth: int) -> Any:
        """The value with its references moved; the same object if it has none."""
        if isinstance(value, fx.Node):
            return self.node(value)
        if depth == 0 or isinstance(value, _UNCHANGED):
            return value
        if _is_edge(value):
            edge = self.edge(value)
            return value if edge == value else edge
        if isinstance(value, dict):
            return self._dict(value, owner, depth)
        if isinstance(value, (list, tuple)):
            return self._sequence(value, owner, depth)
        return self._object(value, owner, depth)

    def _dict(
        self, value: dict[Any, Any], owner: fx.Node, depth: int
    ) -> dict[Any, Any]:
        changed = {
            self._key(key, owner): self.follow(item, owner, depth - 1)
            for key, item in value.items()
        }
        same = all(
            old is new and value[old] is item
            for old, (new, item) in zip(value, changed.items(), strict=False)
        )
        return value if same and len(changed) == len(value) else changed

    def _key(self, key: Any, owner: fx.Node) -> Any:
        """A key of a map by operand: for a replaced reader, the operand's successor."""
        if not isinstance(key, fx.Node):
            return key
        exchanged = self.operands.get(owner, {}).get(key)
        return self.node(key) if exchanged is None else exchanged

    def _sequence(self, value: Any, owner: fx.Node, depth: int) -> Any:
        items = [self.follow(item, owner, depth - 1) for item in value]
        if all(old is new for old, new in zip(value, items, strict=True)):
            return value
        # A named tuple takes its items one by one.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _object(self, value: Any, owner: fx.Node, depth: int) -> Any:
        fields = getattr(value, "__dict__", None)
        if not fields or not _describes(type(value)):
            return value
        changes = {}
        for name, item in fields.items():
            moved = self.follow(item, owner, depth - 1)
            if moved is not item:
                changes[name] = moved
        if not changes:
            return value
        own = copy.copy(value)
        for name, item in changes.items():
            # Works for a frozen dataclass, too.
            object.__setattr__(own, name, item)
        return own


def _is_edge(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) == 2
        and all(isinstance(item, fx.Node) for item in value)
    )


def _describes(kind: type) -> bool:
    """Whether objects of a class are records of data: dataclasses and attrs classes."""
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__attrs_attrs__")
