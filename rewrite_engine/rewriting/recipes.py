"""Right sides made again: equal matches become equal nodes, on other operands.

A model repeats its layers. What a match becomes depends on its calls, on the literals
and types of what it binds, and not on which nodes these are: the first of equal matches
is built from the replacement graph, the others repeat what was made for it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from itertools import chain
from types import EllipsisType, NoneType
from typing import Any, Final, NamedTuple

import attrs
import torch
from torch import fx
from torch.fx.immutable_collections import immutable_list

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.literals import is_literal
from rewrite_engine.lowering.replacements import follows_from_types
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.match import CapturedCalls, Match
from rewrite_engine.rewriting.build import Built, name_hint
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.rewriting.values import Derivation, ValueTypes
from rewrite_engine.tensor_types import VALUE_KEYS


class _NoRecipe(Exception):  # noqa: N818 - an outcome, not an error
    """Something that is not repeated: it is built from the replacement graph."""


class Recipes:
    """What the matches of one run became, by all that it depended on."""

    def __init__(
        self, transaction: Transaction, facts: GraphFacts, types: ValueTypes
    ) -> None:
        self._transaction = transaction
        self._facts = facts
        self._types = types
        self._known: dict[Hashable, _Recipe] = {}
        self._repeatable: dict[CompiledRule, bool] = {}

    def outline(self, match: Match) -> Outline | None:
        """What the right side of a match depends on; None if on more than that."""
        try:
            if not self._is_repeatable(match.rule):
                return None
            return _Outliner(self._facts, self._types).outline(match)
        except _NoRecipe:
            return None

    def _is_repeatable(self, rule: CompiledRule) -> bool:
        known = self._repeatable.get(rule)
        if known is None:
            known = follows_from_types(rule.replacement_graph)
            self._repeatable[rule] = known
        return known

    def repeat(self, outline: Outline, before: fx.Node) -> Built | None:
        """The nodes of an equal match again, on this one's operands."""
        recipe = self._known.get(outline.key)
        if recipe is None:
            return None
        return recipe.repeat(outline.nodes, before, self._transaction, self._types)

    def learn(self, outline: Outline, built: Built) -> None:
        """Remember what a match became; `built` has passed every check on its types."""
        try:
            recipe = _Recorder.record(outline.nodes, built, self._types)
        except _NoRecipe:
            return
        self._known[outline.key] = recipe


# --- what a right side depends on ---

_ATOMS: Final = frozenset(
    {int, bool, str, NoneType, EllipsisType}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)
_SEQUENCES: Final = frozenset({list, tuple, immutable_list})
_CALLS: Final = ("call_function", "call_method")
_RECORDS: Final = frozenset({*VALUE_KEYS, "tensor_meta"})


@attrs.frozen(eq=False)
class Outline:
    """A match without the identity of its nodes, which are listed beside it.

    Two matches with equal keys differ in nothing but their nodes.
    """

    key: Hashable
    nodes: list[fx.Node]


@attrs.define(eq=False)
class _Outliner:
    """Writes a match as a flat list of types, literals and indices of nodes."""

    facts: GraphFacts
    types: ValueTypes
    parts: list[Any] = attrs.field(factory=list)
    indices: dict[fx.Node, int] = attrs.field(factory=dict)

    def outline(self, match: Match) -> Outline:
        self.parts += [match.rule, match.row]
        for call, spelling in match.calls.items():
            if call.op not in _CALLS:
                raise _NoRecipe
            self.parts.append(spelling)
            self._add_node(call)
            self._add_items(call._args)
            self._add_items(chain.from_iterable(call._kwargs.items()))
        self._add_items(match.bindings.values())
        nodes = list(self.indices)
        self.parts += map(self._fingerprint, nodes)
        return Outline(tuple(self.parts), nodes)

    def _add_items(self, items: Iterable[Any], kind: type = list) -> None:
        parts = self.parts
        parts.append(kind)
        for item in items:
            kind = type(item)
            if kind is fx.Node:
                self._add_node(item)
            elif kind in _ATOMS:
                parts += (kind, item)
            elif kind is float:
                # -0.0 equals 0.0, and is another literal.
                parts += (kind, item, math.copysign(1, item))
            elif kind in _SEQUENCES:
                self._add_items(item, kind)
            elif kind is CapturedCalls:
                self._add_items((item.root, item.hole, *item.calls), kind)
            else:
                raise _NoRecipe
        parts.append(...)

    def _add_node(self, node: fx.Node) -> None:
        self.parts += (fx.Node, self.indices.setdefault(node, len(self.indices)))

    def _fingerprint(self, node: fx.Node) -> Hashable:
        """What new nodes take over or derive from a node, beside its identity."""
        meta = node.meta
        if node.op in _CALLS and _RECORDS.isdisjoint(meta):
            return None
        identity = self.types.identity_of(node) or self.facts.type_of(node)
        return identity, getattr(meta.get("tensor_meta"), "requires_grad", None)


# --- what a right side became ---


class _Operand(int):
    """The index of a node: those of the outline, then the created ones."""


class _Operands(tuple[Any, ...]):
    """A list that holds nodes."""


class _Step(NamedTuple):
    """One node to create."""

    op: str
    target: Any
    name: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    like: int | None
    """The matched call that it repeats with other operands."""
    derivation: Derivation | None


@attrs.frozen(eq=False)
class _Recipe:
    """The nodes of a right side; nodes are given by their index."""

    steps: tuple[_Step, ...]
    replaced: tuple[tuple[int, int], ...]
    copies: tuple[tuple[int, int], ...]
    names: Mapping[str, int]

    def repeat(
        self,
        given: list[fx.Node],
        before: fx.Node,
        transaction: Transaction,
        types: ValueTypes,
    ) -> Built:
        nodes = list(given)
        for op, target, name, step_args, step_kwargs, copied, derivation in self.steps:
            args = tuple([_filled(arg, nodes) for arg in step_args])
            kwargs = {key: _filled(arg, nodes) for key, arg in step_kwargs.items()}
            node = transaction.create(before, op, target, args, kwargs, name)
            nodes.append(node)
            like = None if copied is None else nodes[copied]
            if derivation is None:
                types.infer(node, like=like)
            else:
                types.infer_again(node, derivation, like)
        return Built(
            tuple(nodes[len(given) :]),
            {nodes[old]: nodes[new] for old, new in self.replaced},
            {nodes[new]: nodes[old] for new, old in self.copies},
            {name: nodes[index] for name, index in self.names.items()},
            (),
        )


def _filled(value: Any, nodes: list[fx.Node]) -> Any:
    kind = type(value)
    if kind is _Operand:
        return nodes[value]
    if kind is _Operands:
        return [_filled(item, nodes) for item in value]
    return value


@attrs.frozen(eq=False)
class _Recorder:
    """Turns the nodes of a match into a recipe."""

    indices: Mapping[fx.Node, int]
    types: ValueTypes

    @staticmethod
    def record(given: list[fx.Node], built: Built, types: ValueTypes) -> _Recipe:
        nodes = [*given, *built.created]
        recorder = _Recorder({node: i for i, node in enumerate(nodes)}, types)
        return recorder.recipe(built)

    def recipe(self, built: Built) -> _Recipe:
        index = self._index
        steps = [self._step(node, built.copies.get(node)) for node in built.created]
        named = {n: v for n, v in built.names.items() if isinstance(v, fx.Node)}
        return _Recipe(
            tuple(steps),
            tuple((index(old), index(new)) for old, new in built.replaced.items()),
            tuple((index(new), index(old)) for new, old in built.copies.items()),
            {name: index(node) for name, node in named.items()},
        )

    def _index(self, node: fx.Node) -> int:
        if node not in self.indices:
            raise _NoRecipe
        return self.indices[node]

    def _step(self, node: fx.Node, like: fx.Node | None) -> _Step:
        if node.op not in _CALLS:
            raise _NoRecipe
        return _Step(
            node.op,
            node.target,
            name_hint(node.target),
            tuple(map(self._template, node.args)),
            {key: self._template(arg) for key, arg in node.kwargs.items()},
            None if like is None else self._index(like),
            self.types.derivation(node, like),
        )

    def _template(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return _Operand(self._index(value))
        if is_literal(value):
            return value
        if type(value) is not immutable_list:
            raise _NoRecipe
        return _Operands(map(self._template, value))
