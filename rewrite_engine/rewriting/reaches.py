"""How far a search looks: the nodes around an anchor, and what they are called with.

A reach is read by a function of its own, whose source is generated. Places that look
alike from an anchor on give equal keys, so that it takes no search to know them again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Hashable, Mapping
from functools import cached_property
from itertools import pairwise
from types import EllipsisType, NoneType
from typing import Any, Final, NamedTuple, TypeAlias

import attrs
import torch
from torch import fx
from torch.fx.immutable_collections import immutable_list

from rewrite_engine.matching.generated import ARGUMENTS, KEYWORDS, function_of

LITERALS: Final = frozenset(
    {int, float, bool, str, NoneType, EllipsisType}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)
SEQUENCES: Final = frozenset({list, tuple, immutable_list})
CALLS: Final = ("call_function", "call_method")


class Unrepeatable(Exception):  # noqa: N818 - an outcome, not an error
    """A match depends on something that no outline can hold."""


class _List(NamedTuple):
    """A list among arguments."""

    kind: type
    items: tuple[_Argument, ...]


_Argument: TypeAlias = "int | _List | None"
"""The index of a node, a list of such, or None for a literal."""


class _Call(NamedTuple):
    """What a call looks like, but for its target and the values of its literals."""

    op: str
    arguments: tuple[_Argument, ...]
    keywords: tuple[str, ...]
    """The names of the last arguments."""


_NO_CALL: Final = _Call("", (), ())
_MOST_ARGUMENTS: Final = 200
_TypeOf = Callable[[fx.Node], Hashable]


@attrs.frozen(cache_hash=True, slots=False)
class Reach:
    """What a search sees from an anchor on: nodes, numbered breadth first.

    `calls` describes the nodes that were looked at as calls, and has None for others.
    `order` lists the calls as they stand in the graph, `typed` the nodes whose types
    matter.
    """

    calls: tuple[_Call | None, ...]
    order: tuple[int, ...]
    typed: tuple[int, ...]

    @staticmethod
    def of(
        anchor: fx.Node, seen: Container[fx.Node], typed: Callable[[fx.Node], bool]
    ) -> Reach:
        """What a search came across that has looked at some nodes.

        Raises: Unrepeatable
        """
        numbers = _Numbers()
        numbers.number(anchor)
        nodes = numbers.nodes  # grows
        calls = tuple([numbers.call(n) if n in seen else None for n in nodes])
        found = [n for n, call in zip(nodes, calls, strict=True) if call and call.op]
        order = tuple(numbers.number(node) for node in sorted(found))
        indices = tuple(i for i, node in enumerate(nodes) if typed(node))
        return Reach(calls, order, indices)

    @cached_property
    def read(self) -> Callable[[fx.Node, _TypeOf], _Seen | None]:
        """A function of an anchor, and of another one that tells types.

        It gives a key and the nodes; None if the place looks otherwise. Places with
        equal keys differ in nothing but their nodes. A key has the addresses of what is
        called, which must stay taken.
        """
        writer = _Writer()
        for index, call in enumerate(self.calls):
            writer.node(index, call)
        writer.result(self)
        return function_of("\n".join(writer.lines), writer.names)


_Seen: TypeAlias = tuple[tuple[Hashable, ...], list[fx.Node]]


@attrs.define(eq=False)
class _Numbers:
    """Nodes in the order in which they are met."""

    nodes: list[fx.Node] = attrs.field(factory=list)
    _indices: dict[fx.Node, int] = attrs.field(factory=dict)
    _left: int = _MOST_ARGUMENTS

    def number(self, node: fx.Node) -> int:
        index = self._indices.setdefault(node, len(self.nodes))
        if index == len(self.nodes):
            self.nodes.append(node)
        return index

    def call(self, node: fx.Node) -> _Call:
        if node.op not in CALLS:
            if node.op == "call_module":
                raise Unrepeatable  # what it calls depends on more than its target
            return _NO_CALL
        arguments = (*node.args, *node.kwargs.values())
        return _Call(node.op, self._arguments(arguments), tuple(node.kwargs))

    def _arguments(self, values: Collection[Any]) -> tuple[_Argument, ...]:
        self._left -= len(values)
        if self._left < 0:
            raise Unrepeatable
        return tuple(map(self._argument, values))

    def _argument(self, value: Any) -> _Argument:
        kind = type(value)
        if kind is fx.Node:
            return self.number(value)
        if kind in LITERALS:
            return None
        if kind in SEQUENCES:
            return _List(kind, self._arguments(value))
        raise Unrepeatable


_HELPERS: Final[Mapping[str, Any]] = {
    "ALL_CALLS": frozenset({*CALLS, "call_module"}),
    "LITERALS": LITERALS,
    "Node": fx.Node,
    "list": list,
    "tuple": tuple,
    "immutable_list": immutable_list,
}


class _Writer:
    """The source of a function that reads a reach: node `n3` has the number three."""

    def __init__(self) -> None:
        self.lines = ["def read(n0, type_of):"]
        self.names = dict(_HELPERS)
        self._key: list[str] = []
        self._known = 1
        self._values = 0

    def _refuse(self, condition: str) -> None:
        self.lines.append(f"    if {condition}: return None")

    def node(self, index: int, call: _Call | None) -> None:
        """What a node must look like; its operands are known from here on."""
        if call is None:
            return
        if not call.op:
            self._refuse(f"n{index}.op in ALL_CALLS")
            return
        self._refuse(f"n{index}.op != {call.op!r}")
        target = f"n{index}.target"
        self._key.append(target if call.op == "call_method" else f"id({target})")
        positional = len(call.arguments) - len(call.keywords)
        self._items(f"n{index}.{ARGUMENTS}", call.arguments[:positional])
        self._keywords(index, call.keywords, call.arguments[positional:])

    def _keywords(
        self, index: int, keywords: tuple[str, ...], values: tuple[_Argument, ...]
    ) -> None:
        given = f"n{index}.{KEYWORDS}"
        if not keywords:
            self._refuse(given)
            return
        self.names[f"K{index}"] = keywords
        self._refuse(f"tuple({given}) != K{index}")
        self._unpack(f"{given}.values()", values)

    def _items(self, source: str, items: tuple[_Argument, ...]) -> None:
        name = self._name()
        self.lines.append(f"    {name} = {source}")
        self._refuse(f"len({name}) != {len(items)}")
        if items:
            self._unpack(name, items)

    def _unpack(self, source: str, items: tuple[_Argument, ...]) -> None:
        names = [self._name() for _ in items]
        self.lines.append(f"    {', '.join(names)}, = {source}")
        for name, item in zip(names, items, strict=True):
            self._item(name, item)

    def _item(self, name: str, item: _Argument) -> None:
        if item is None:
            self._refuse(f"type({name}) not in LITERALS")
            # `1`, `1.0` and `True` are equal, as are `0.0` and `-0.0`.
            self._key += [f"type({name})", f"{name} or str({name})"]
        elif isinstance(item, _List):
            self._refuse(f"type({name}) is not {item.kind.__name__}")
            self._items(name, item.items)
        elif item < self._known:
            self._refuse(f"{name} is not n{item}")
        else:
            self._refuse(f"type({name}) is not Node")
            self.lines.append(f"    n{item} = {name}")
            self._known += 1

    def _name(self) -> str:
        self._values += 1
        return f"v{self._values}"

    def result(self, reach: Reach) -> None:
        """Which nodes must differ, and how they must stand; what is left is the key."""
        nodes = [f"n{index}" for index in range(len(reach.calls))]
        self._refuse(f"len({{{', '.join(nodes)}}}) != {len(nodes)}")
        for one, other in pairwise(reach.order):
            if one not in _operands(reach.calls[other]):
                self._refuse(f"not n{one} < n{other}")
        key = [*self._key, *(f"type_of(n{index})" for index in reach.typed)]
        listed = ", ".join(nodes)
        self.lines.append(f"    return ({''.join(f'{k}, ' for k in key)}), [{listed}]")


def _operands(call: _Call | None) -> set[int]:
    """The nodes that a call reads."""
    found, todo = set(), [] if call is None else list(call.arguments)
    for argument in todo:  # grows
        if isinstance(argument, int):
            found.add(argument)
        elif argument is not None:
            todo += argument.items
    return found
