"""Right sides made again: equal matches become equal nodes, on other operands.

A model repeats its layers. What a match becomes depends on its calls, on the literals
and types of what it binds, and not on which nodes these are: the first of equal matches
is built from the replacement graph, the others repeat what was made for it.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import attrs
import torch
from torch import fx
from torch.fx.immutable_collections import immutable_list

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.literals import is_literal
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.build import Built, name_hint
from rewrite_engine.rewriting.constants import Label, Store
from rewrite_engine.rewriting.folding import (
    Constant,
    Fold,
    computing,
    constant_node_value,
)
from rewrite_engine.rewriting.outlines import (
    CALLS,
    Outline,
    Outliner,
    Reach,
    Unrepeatable,
)
from rewrite_engine.rewriting.state import State
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.rewriting.twins import Index, Twin
from rewrite_engine.rewriting.values import Derivation, ValueTypes


class Recipes:
    """What the matches of a run became, by all that it depended on.

    What depends on no dynamic size is put into `memory`, for other graphs.
    """

    def __init__(
        self,
        transaction: Transaction,
        state: State,
        types: ValueTypes,
        memory: dict[Any, _Memory],
    ) -> None:
        self._store = Store(transaction, state, types)
        self._facts = state.facts
        self._types = types
        self._outliner = Outliner(state.facts, types)
        self._known: dict[Hashable, _Known] = {}
        self._is_exported = state.is_exported
        self._memory = memory

    @cached_property
    def _shared(self) -> _Memory:
        """What is known from graphs that record values alike."""
        # An exported program takes fewer calls than a module with the same records.
        kept_for = self._types.convention, self._is_exported
        return self._memory.setdefault(kept_for, _Memory())

    def find(self, rule: CompiledRule, anchor: fx.Node) -> Subject | None:
        """The match that a search at this node would find first, if one with an equal
        outline is known.
        """
        for reach in self._shared.reaches.get(rule, ()):
            try:
                outline = self._outliner.at(rule, anchor, reach)
            except Unrepeatable:
                return None
            known = None if outline is None else self._recall(outline)
            if outline is not None and known is not None and known.twin is not None:
                return Subject(known.twin.match(outline.nodes), outline, known)
        return None

    def recall(self, match: Match) -> Subject:
        """A match, with what is known of equal ones."""
        try:
            outline = self._outliner.of(match) if match.rule.is_repeatable else None
        except Unrepeatable:
            outline = None
        return Subject(
            match, outline, None if outline is None else self._recall(outline)
        )

    def _recall(self, outline: Outline) -> _Known | None:
        return self._shared.known.get(outline.key) or self._known.get(outline.key)

    def repeat(self, subject: Subject, before: fx.Node) -> Built | None:
        """The nodes of an equal match again, on this one's operands.

        Raises: Refused, if the constants that it folds are none, or become inf or nan.
        """
        _, outline, known = subject
        if known is None or outline is None:
            return None
        recipe, nodes = known.recipe, outline.nodes
        folding = recipe.folding
        held = [self._facts.constant(nodes[index]) for index in folding.read]
        if not folding.fits(held):
            return None
        constants = folding.run(nodes, held) if held or folding.calls else []
        return recipe.repeat(nodes, constants, before, self._store)

    def learn(self, subject: Subject, built: Built) -> None:
        """Remember what a match became; `built` has passed every check on its types."""
        match, outline, _ = subject
        if outline is None:
            return
        try:
            recipe = _Recorder.record(outline.nodes, built, self._types, self._facts)
            twin = None if outline.reach is None else Twin.of(match, outline)
        except Unrepeatable:
            return
        known = self._known[outline.key] = _Known(recipe, twin)
        if outline.is_static:
            self._shared.add(outline.key, known)
        if outline.reach is not None:
            self._shared.reach(match.rule, outline.reach)


class Subject(NamedTuple):
    """A match that is to be rewritten, and what is known of equal ones."""

    match: Match
    outline: Outline | None
    """What its right side depends on; None if on more than that."""
    known: _Known | None


class _Known(NamedTuple):
    """What is known of equal matches."""

    recipe: _Recipe
    twin: Twin | None
    """None if it takes a search to find them."""


_MOST_KNOWN: Final = 1_000
_MOST_REACHES: Final = 4


@attrs.frozen(eq=False)
class _Memory:
    """What outlives a run."""

    known: dict[Hashable, _Known] = attrs.field(factory=dict)
    reaches: dict[CompiledRule, dict[Reach, None]] = attrs.field(factory=dict)

    def add(self, key: Hashable, known: _Known) -> None:
        if len(self.known) >= _MOST_KNOWN:
            self.known.clear()
        self.known[key] = known

    def reach(self, rule: CompiledRule, reach: Reach) -> None:
        """Look as far for other matches of a rule; the latest reaches are kept."""
        reaches = [reach, *self.reaches.get(rule, ())][:_MOST_REACHES]
        self.reaches[rule] = dict.fromkeys(reaches)


class _Operands(tuple[Any, ...]):
    """A list that holds nodes."""


class _Storing(NamedTuple):
    """One constant to store, given by its index, as are those that it was made from and
    the node it is named after.
    """

    constant: int
    dtype: torch.dtype
    inputs: tuple[int, ...]
    label: Label
    source: int | None


@attrs.frozen(eq=False)
class _Folding:
    """Constants to read and to compute; calls are given constants by their index."""

    read: tuple[int, ...]
    kinds: tuple[Hashable, ...]
    calls: tuple[Fold, ...]

    def fits(self, held: Sequence[torch.Tensor | None]) -> bool:
        """Whether the constants of other nodes are of the same kinds."""
        return all(map(operator.eq, map(_kind, held), self.kinds))

    def run(
        self, nodes: list[fx.Node], held: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """What was read, then what each call gives, in at least fp64."""
        read = zip(self.read, held, strict=True)
        found = [constant_node_value(nodes[i], tensor).exact for i, tensor in read]
        with computing():
            for target, args, kwargs in self.calls:
                filled = [_filled(arg, found) for arg in args]
                named = {key: _filled(arg, found) for key, arg in kwargs.items()}
                found.append(target(*filled, **named))
        return found


def _kind(held: torch.Tensor | None) -> Hashable:
    """What the type of a constant made from others depends on in one of them."""
    if held is None or held.layout is not torch.strided:
        return None
    kind = type(held), held.dtype, held.shape, held.stride(), held.device
    return *kind, held.requires_grad


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

    def create(self, nodes: list[fx.Node], before: fx.Node, store: Store) -> fx.Node:
        """The node, on other operands."""
        args = tuple([_filled(arg, nodes) for arg in self.args])
        kwargs = self.kwargs
        if kwargs:
            kwargs = {key: _filled(arg, nodes) for key, arg in kwargs.items()}
        create = store.transaction.create
        node = create(before, self.op, self.target, args, kwargs, self.name)
        like = None if self.like is None else nodes[self.like]
        if self.derivation is None:
            store.types.infer(node, like=like)
        else:
            store.types.infer_again(node, self.derivation, like)
        return node


@attrs.frozen(eq=False)
class _Recipe:
    """The nodes of a right side; nodes are given by their index."""

    folding: _Folding
    steps: tuple[_Step | _Storing, ...]
    replaced: tuple[tuple[int, int], ...]
    copies: tuple[tuple[int, int], ...]
    names: Mapping[str, int]

    def repeat(
        self,
        given: list[fx.Node],
        constants: list[torch.Tensor],
        before: fx.Node,
        store: Store,
    ) -> Built:
        nodes = list(given)
        for step in self.steps:
            if isinstance(step, _Storing):
                source = None if step.source is None else nodes[step.source]
                constant = _constant(step, constants)
                nodes.append(store.add(before, constant, step.label, source))
            else:
                nodes.append(step.create(nodes, before, store))
        return Built(
            tuple(nodes[len(given) :]),
            {nodes[old]: nodes[new] for old, new in self.replaced},
            {nodes[new]: nodes[old] for new, old in self.copies},
            {name: nodes[index] for name, index in self.names.items()},
            tuple([nodes[index] for index in self.folding.read]),
        )


def _constant(step: _Storing, constants: list[torch.Tensor]) -> Constant:
    def read(index: int) -> Constant:
        return Constant(constants[index], constants[index].dtype)

    inputs = tuple(map(read, step.inputs))
    return Constant(constants[step.constant], step.dtype, None, inputs)


def _filled(value: Any, nodes: Sequence[Any]) -> Any:
    kind = type(value)
    if kind is Index:
        return nodes[value]
    if kind is _Operands:
        return [_filled(item, nodes) for item in value]
    return value


@attrs.frozen(eq=False)
class _Recorder:
    """Turns the nodes of a match into a recipe."""

    nodes: Mapping[fx.Node, int]
    constants: Mapping[fx.Node | Constant, int]
    """Those that are read, by their nodes, then those that are computed."""
    types: ValueTypes

    @staticmethod
    def record(
        given: list[fx.Node], built: Built, types: ValueTypes, facts: GraphFacts
    ) -> _Recipe:
        nodes = _indices([*given, *built.created])
        constants = _indices([*built.folded, *built.folds])
        if any(nodes[node] >= len(given) for node in built.folded):
            raise Unrepeatable
        return _Recorder(nodes, constants, types).recipe(built, facts)

    def recipe(self, built: Built, facts: GraphFacts) -> _Recipe:
        index = self._index
        named = {n: v for n, v in built.names.items() if isinstance(v, fx.Node)}
        return _Recipe(
            self._folding(built, facts),
            tuple([self._step(node, built) for node in built.created]),
            tuple((index(old), index(new)) for old, new in built.replaced.items()),
            tuple((index(new), index(old)) for new, old in built.copies.items()),
            {name: index(node) for name, node in named.items()},
        )

    def _index(self, value: fx.Node | Constant) -> int:
        if isinstance(value, fx.Node):
            index = self.nodes.get(value)
        elif isinstance(value.origin, fx.Node):
            index = self.constants.get(value.origin)
        else:
            index = self.constants.get(value)
        if index is None:
            raise Unrepeatable
        return index

    # --- constants ---

    def _folding(self, built: Built, facts: GraphFacts) -> _Folding:
        return _Folding(
            tuple(map(self._index, built.folded)),
            tuple(_kind(facts.constant(node)) for node in built.folded),
            tuple(map(self._fold, built.folds)),
        )

    def _fold(self, constant: Constant) -> Fold:
        if not isinstance(constant.origin, Fold):
            raise Unrepeatable
        return Fold(constant.origin.target, *self._arguments(*constant.origin[1:]))

    # --- nodes ---

    def _step(self, node: fx.Node, built: Built) -> _Step | _Storing:
        if node in built.stored:
            constant, label, source = built.stored[node]
            named_after = None if source is None else self._index(source)
            inputs = tuple(map(self._index, constant.inputs))
            index = self._index(constant)
            return _Storing(index, constant.dtype, inputs, label, named_after)
        assert node.op in CALLS, "no outline holds a call of a module"
        like = built.copies.get(node)
        return _Step(
            node.op,
            node.target,
            name_hint(node.target),
            *self._arguments(node.args, node.kwargs),
            None if like is None else self._index(like),
            self.types.derivation(node, like),
        )

    def _arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = {key: self._template(arg) for key, arg in kwargs.items()}
        return tuple(map(self._template, args)), named

    def _template(self, value: Any) -> Any:
        if isinstance(value, (fx.Node, Constant)):
            return Index(self._index(value))
        if type(value) in (list, immutable_list):
            items = _Operands(map(self._template, value))
            return items if any(map(_is_operand, items)) else value
        if not is_literal(value):
            raise Unrepeatable
        return value


def _is_operand(template: Any) -> bool:
    return isinstance(template, (Index, _Operands))


def _indices(values: list[Any]) -> dict[Any, int]:
    return {value: index for index, value in enumerate(values)}
