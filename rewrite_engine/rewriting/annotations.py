"""Node references inside metadata, re-targeted after nodes were replaced.

Quantizers describe a graph by its nodes: `QuantizationAnnotation.input_qspec_map` is
keyed by operands, a `SharedQuantizationSpec` names a node or an edge, and a
`DerivedQuantizationSpec` a list of such, anywhere in the graph. They are recognised by
their structure, as are dataclasses, attrs classes, dictionaries, lists, tuples and sets
of a user's own.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar

import attrs
import torch
from torch import fx

Edge = tuple[fx.Node, fx.Node]
"""An operand and the node that reads it."""

_T = TypeVar("_T")

_DEPTH: Final = 8
# Values that name no nodes, or nodes of a graph's past on purpose.
_SKIPPED: Final = frozenset(
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
        # AOT autograd, partitioners and inductor
        "seq_nr",
        "desc",
        "fwd_nn_module_stack",
        "fwd_source_fn_stack",
        "autograd_backward",
        "partitioner_tag",
        "recompute",
        "ac_graph_id",
        "mutation_region_id",
        "unbacked_bindings",
        "output_stack_traces",
        "user_visible_output_idxs",
        "original_output_strides",
    }
)
_ATOMS: Final = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.qscheme}
)
_SPEC_FIELDS: Final = (
    "input_qspec_map",
    "output_qspec",
    "edge_or_node",
    "derived_from",
)


ANNOTATION: Final = "quantization_annotation"


@attrs.frozen
class Undo:
    """One entry of a node's metadata, as it was."""

    meta: dict[str, Any]
    key: str
    value: Any

    def restore(self) -> None:
        """Puts the old value back."""
        self.meta[self.key] = self.value


def may_name_nodes(node: fx.Node) -> bool:
    """Whether the metadata of a node has anything that could name other nodes."""
    return not _SKIPPED.issuperset(node.meta)


def keep_output_spec(new: fx.Node, old: fx.Node) -> None:
    """Says of `new` how the value of `old`, which it has now, is to be quantized.

    `new` may have the annotation of another node: that of a convolution which has taken
    over what followed it. Nothing is said of the operands of `old`.
    """
    annotation = old.meta.get(ANNOTATION)
    spec = getattr(annotation, "output_qspec", None)
    if spec is None:
        return
    fields = {"output_qspec": spec}
    if ANNOTATION not in new.meta:
        fields["input_qspec_map"] = {}
    new.meta[ANNOTATION] = _with_fields(new.meta.get(ANNOTATION, annotation), fields)


def retarget(
    nodes: Iterable[fx.Node],
    moved: Mapping[fx.Node, fx.Node],
    edges: Mapping[Edge, Edge],
) -> Iterator[Undo]:
    """Makes the metadata of `nodes` name the nodes that replaced others.

    `moved` maps a replaced node to its successor, `edges` an operand of a replaced
    node to the operand of the new one. Both may hold several rewrites of one node, one
    after the other. An edge follows `edges`, and `moved` where it is not there; a node
    by itself follows `moved` only, so one that lives on keeps its name.

    Objects that change are replaced by copies, never written. What undoes a change is
    yielded before the change is made, so that a caller who is interrupted can go back.
    """
    if not moved and not edges:
        return
    targets = _Targets(moved, edges, _operands_by_consumer(edges))
    for node in nodes:
        if may_name_nodes(node):
            yield from _retarget_node(node, targets)


def _retarget_node(node: fx.Node, targets: _Targets) -> Iterator[Undo]:
    meta = node.meta
    renamed = targets.renaming(node)
    for key in [key for key in meta if key not in _SKIPPED]:
        old = meta[key]
        new = renamed(old)
        if new is not old:
            yield Undo(meta, key, old)
            meta[key] = new


@attrs.frozen
class _Targets:
    """Where references go."""

    moved: Mapping[fx.Node, fx.Node]
    edges: Mapping[Edge, Edge]
    operands: Mapping[fx.Node, Mapping[fx.Node, fx.Node]]
    """Per node of the new graph: what became of the operands of its predecessors."""
    plain: dict[int, Any] = attrs.field(factory=dict)
    """Specs that name no nodes, by id: most annotations share theirs."""

    def node(self, node: fx.Node) -> fx.Node:
        """What became of a node."""
        return _last(node, lambda n: self.moved.get(n, n))

    def edge(self, edge: Edge) -> Edge:
        """What became of an edge."""
        return _last(edge, self._next_edge)

    def operand(self, operand: fx.Node, consumer: fx.Node) -> fx.Node:
        """What an operand of `consumer` is now, by the name of then."""
        known = self.operands.get(consumer, {}).get(operand)
        return self.node(operand) if known is None else known

    def renaming(self, owner: fx.Node) -> Callable[[Any], Any]:
        """The function that re-targets a value in the metadata of `owner`."""
        return lambda value: _Renaming(self, owner).value(value, _DEPTH)

    def _next_edge(self, edge: Edge) -> Edge:
        if edge in self.edges:
            return self.edges[edge]
        operand, consumer = edge
        if operand in self.moved:
            return self.moved[operand], consumer
        return operand, self.moved.get(consumer, consumer)


@attrs.frozen
class _Renaming:
    """Copies of values that name other nodes; a value that names none is kept as is."""

    targets: _Targets
    owner: fx.Node

    def value(self, value: Any, depth: int) -> Any:
        if self._is_plain(value):
            return value
        if isinstance(value, fx.Node):
            return self.targets.node(value)
        if depth == 0:
            return value
        if isinstance(value, dict):
            return self._dict(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        return self._fields(value, depth)

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        items = {
            self.value(key, depth - 1): self.value(item, depth - 1)
            for key, item in value.items()
        }
        return value if _same_items(value, items) else _refilled(value, items)

    def _items(self, value: Any, depth: int) -> Any:
        if _is_edge(value):
            edge = self.targets.edge(value)
            return value if edge == value else edge
        items = [self.value(item, depth - 1) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return value._make(items) if hasattr(value, "_make") else type(value)(items)

    def _fields(self, value: Any, depth: int) -> Any:
        kind: type = type(value)
        names = _field_names(kind)
        fields = [getattr(value, name, None) for name in names]
        changed = {}
        for name, old in zip(names, fields, strict=True):
            if isinstance(old, dict) and name == "input_qspec_map":
                new = self._qspec_map(old, depth)
            else:
                new = self.value(old, depth - 1)
            if new is not old:
                changed[name] = new
        if all(map(self._is_plain, fields)):
            self.targets.plain[id(value)] = value
        return _with_fields(value, changed) if changed else value

    def _is_plain(self, value: Any) -> bool:
        return type(value) in _ATOMS or id(value) in self.targets.plain

    def _qspec_map(self, value: dict[Any, Any], depth: int) -> Any:
        items = {
            self._operand(key): self.value(spec, depth - 1)
            for key, spec in value.items()
        }
        return value if _same_items(value, items) else _refilled(value, items)

    def _operand(self, key: Any) -> Any:
        if not isinstance(key, fx.Node):
            return key
        return self.targets.operand(key, self.owner)


def _operands_by_consumer(
    edges: Mapping[Edge, Edge],
) -> dict[fx.Node, dict[fx.Node, fx.Node]]:
    operands: dict[fx.Node, dict[fx.Node, fx.Node]] = {}
    for edge in edges:
        operand, consumer = _last(edge, lambda e: edges.get(e, e))
        operands.setdefault(consumer, {}).setdefault(edge[0], operand)
    return operands


def _last(start: _T, following: Callable[[_T], _T]) -> _T:
    current, after = start, following(start)
    while after != current:
        current, after = after, following(after)
    return current


def _is_edge(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) == 2
        and all(isinstance(item, fx.Node) for item in value)
    )


@lru_cache(maxsize=1024)
def _field_names(kind: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if attrs.has(kind):
        return tuple(field.name for field in attrs.fields(kind))
    # An ordinary object counts as a spec if it has one of these; others are opaque.
    return () if kind.__module__ == "builtins" else _SPEC_FIELDS


def _with_fields(value: Any, fields: Mapping[str, Any]) -> Any:
    """A copy with other fields, of a frozen class as well."""
    changed = copy.copy(value)
    for name, field in fields.items():
        object.__setattr__(changed, name, field)
    return changed


def _refilled(value: dict[Any, Any], items: dict[Any, Any]) -> Any:
    """A dictionary of the kind of `value` with other items."""
    if type(value) is dict:
        return items
    filled = copy.copy(value)
    filled.clear()
    filled.update(items)
    return filled


def _same_items(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> bool:
    pairs = zip(old.items(), new.items(), strict=False)
    return len(old) == len(new) and all(a is b and x is y for (a, x), (b, y) in pairs)
