"""Metadata of new nodes: what they take over from the nodes they were made from.

No two nodes ever share a dictionary or list. What a node says about its own value is
never copied, see `values.py`; neither is its provenance, which `provenance` makes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from torch import fx
from torch._ops import OpOverload
from torch.fx.traceback import NodeSource, NodeSourceAction

from rewrite_engine.tensor_types import UNKNOWN, VALUE_KEYS, recorded

_OF_THE_VALUE: Final = frozenset({*VALUE_KEYS, "tensor_meta"})
_NOT_INHERITED: Final = _OF_THE_VALUE | {"from_node"}
# Where in the model a node belongs. What it stands for in the source (`torch_fn`,
# `source_fn_stack`) is left out: it would make the helpers that a rule adds to a
# convolution part of the convolution for `get_source_partitions`.
_PLACE: Final = (
    "nn_module_stack",
    "stack_trace",
    "custom",
    "recompute",
    "ac_graph_id",
    "partitioner_tag",
)
_PLACES: Final = frozenset(_PLACE)
_LONGEST_HISTORY: Final = 64
_NodeInfo: Final = NodeSource.NodeInfo
_REPLACED: Final = (NodeSourceAction.REPLACE, NodeSourceAction.CREATE)
# Types of values that nodes may share.
_SHARED: Final = frozenset({str, int, float, bool, tuple, type(None)})


def provenance(
    pass_name: str, replaced: Sequence[fx.Node], targets: Iterable[str] | None = None
) -> list[NodeSource]:
    """The `from_node` entries of the nodes that a rule put in place of `replaced`.

    `targets` says what these call, if that is known. Each entry keeps the history of
    its node while that is short. Entries are never changed, so the new nodes of one
    match may each hold a list of the same ones.
    """
    if not replaced:
        return [NodeSource(None, pass_name, NodeSourceAction.CREATE)]
    action, graph, sources = [*_REPLACED], id(replaced[0].graph), []
    seen: set[int] = set()
    names = targets or map(target_name, replaced)
    for node, target in zip(replaced, names, strict=True):
        # `NodeSource(node)` would copy the history deeply, at ten times the cost.
        source = NodeSource(None, pass_name)
        source.action = action
        source.node_info = _NodeInfo(node.name, target, graph)
        if "from_node" in node.meta:
            source.from_node = _history(node, seen)
        sources.append(source)
    return sources


def inherit(new: fx.Node, old: fx.Node) -> None:
    """Copies everything `old` carries to `new`, except its value and provenance."""
    copy_keys(new, old, [key for key in old.meta if key not in _NOT_INHERITED])


def keep_value(new: fx.Node, old: fx.Node) -> None:
    """Records the value of `old` for its successor, if that has none.

    A successor is of the same type; what it is computed from may have no record.
    """
    if not _OF_THE_VALUE.isdisjoint(old.meta) and recorded(new) is UNKNOWN:
        new.meta.update({k: old.meta[k] for k in _OF_THE_VALUE if k in old.meta})


def place_of(sources: Sequence[fx.Node]) -> dict[str, Any]:
    """Where in the model nodes are: for each key, the first one that says so."""
    place: dict[str, Any] = {}
    for source in sources:
        for key in _PLACES.intersection(source.meta):
            place.setdefault(key, source.meta[key])
    return {key: place[key] for key in _PLACE if key in place}


def fill(new: fx.Node, place: Mapping[str, Any]) -> None:
    """Puts `new` at a place in the model; what it says already stays."""
    meta = new.meta
    for key, value in place.items():
        if key not in meta:
            meta[key] = _own(value)


def copy_keys(target: fx.Node, source: fx.Node, keys: Iterable[str]) -> None:
    """Copies those of `keys` that `source` has; its value is never copied."""
    for key in keys:
        if key in source.meta and key not in _OF_THE_VALUE:
            target.meta[key] = _own(source.meta[key])


def target_name(node: fx.Node) -> str:
    """What fx says that a node calls."""
    if isinstance(node.target, OpOverload):
        return _overload_name(node.target)
    if node.op == "call_function":
        return node._pretty_print_target(node.target)
    return str(node.target)


@lru_cache(maxsize=1024)
def _overload_name(overload: OpOverload) -> str:
    """What fx calls an operator, found once: it searches torch for the name."""
    return fx.Node._pretty_print_target(overload)


def _history(node: fx.Node, seen: set[int]) -> list[NodeSource]:
    """The provenance of a replaced node: each entry once per match, and not if long.

    Rewriting what was rewritten would otherwise double the history every time.
    """
    entries = [s for s in node.meta["from_node"] if id(s) not in seen]
    seen.update(map(id, entries))
    return entries if _fits(entries) else []


def _fits(entries: Iterable[NodeSource]) -> bool:
    pending, count = list(entries), 0
    while pending and count <= _LONGEST_HISTORY:
        count += 1
        pending += pending.pop().from_node
    return count <= _LONGEST_HISTORY


def _own(value: Any) -> Any:
    """A copy whose dictionaries and lists are its own."""
    if type(value) in _SHARED:
        return value
    if type(value) is dict:
        if _SHARED.issuperset(map(type, value.values())):
            return value.copy()
        return {k: _own(v) for k, v in value.items()}
    if type(value) is list:
        return [_own(item) for item in value]
    if isinstance(value, (dict, list, set)):
        return copy.copy(value)
    if hasattr(value, "input_qspec_map"):
        return _own_annotation(value)
    return value


def _own_annotation(annotation: Any) -> Any:
    own = copy.copy(annotation)
    # Works for a frozen dataclass, too.
    object.__setattr__(own, "input_qspec_map", dict(annotation.input_qspec_map))
    return own
