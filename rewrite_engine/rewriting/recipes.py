"""The nodes of a right side as a recipe: they are made again on other operands."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import torch
from torch import fx
from torch.fx.immutable_collections import immutable_list

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.literals import is_literal
from rewrite_engine.rewriting.build import Built, name_hint
from rewrite_engine.rewriting.constants import Label, Store
from rewrite_engine.rewriting.folding import (
    Constant,
    Fold,
    computing,
    constant_node_value,
)
from rewrite_engine.rewriting.reaches import CALLS, Unrepeatable
from rewrite_engine.rewriting.twins import Index
from rewrite_engine.rewriting.values import Derivation, ValueTypes


class Operands(tuple[Any, ...]):
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


class Step(NamedTuple):
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
class Recipe:
    """The nodes of a right side; nodes are given by their index."""

    folding: _Folding
    steps: tuple[Step | _Storing, ...]
    replaced: tuple[tuple[int, int], ...]
    copies: tuple[tuple[int, int], ...]
    names: Mapping[str, int]

    @staticmethod
    def of(
        given: list[fx.Node], built: Built, types: ValueTypes, facts: GraphFacts
    ) -> Recipe:
        """How the nodes of `built` were made from those given.

        Raises: Unrepeatable, if that took more than nodes and literals.
        """
        nodes = _indices([*given, *built.created])
        constants = _indices([*built.folded, *built.folds])
        if any(nodes[node] >= len(given) for node in built.folded):
            raise Unrepeatable
        return _Recorder(nodes, constants, types).recipe(built, facts)

    def repeat(
        self,
        given: list[fx.Node],
        constants: list[torch.Tensor],
        before: fx.Node,
        store: Store,
    ) -> Built:
        nodes, read = list(given), [given[index] for index in self.folding.read]
        for step in self.steps:
            if isinstance(step, _Storing):
                source = None if step.source is None else nodes[step.source]
                constant = _constant(step, constants, read)
                nodes.append(store.add(before, constant, step.label, source))
            else:
                nodes.append(step.create(nodes, before, store))
        return Built(
            tuple(nodes[len(given) :]),
            {nodes[old]: nodes[new] for old, new in self.replaced},
            {nodes[new]: nodes[old] for new, old in self.copies},
            {name: nodes[index] for name, index in self.names.items()},
            tuple(read),
        )


def _constant(
    step: _Storing, constants: list[torch.Tensor], read: list[fx.Node]
) -> Constant:
    def found(index: int) -> Constant:
        origin = read[index] if index < len(read) else None
        return Constant(constants[index], constants[index].dtype, origin)

    inputs = tuple(map(found, step.inputs))
    return attrs.evolve(found(step.constant), dtype=step.dtype, inputs=inputs)


def _filled(value: Any, nodes: Sequence[Any]) -> Any:
    kind = type(value)
    if kind is Index:
        return nodes[value]
    if kind is Operands:
        return [_filled(item, nodes) for item in value]
    return value


@attrs.frozen(eq=False)
class _Recorder:
    """Turns the nodes of a match into a recipe."""

    nodes: Mapping[fx.Node, int]
    constants: Mapping[fx.Node | Constant, int]
    """Those that are read, by their nodes, then those that are computed."""
    types: ValueTypes

    def recipe(self, built: Built, facts: GraphFacts) -> Recipe:
        index = self._index
        named = {n: v for n, v in built.names.items() if isinstance(v, fx.Node)}
        return Recipe(
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

    def _step(self, node: fx.Node, built: Built) -> Step | _Storing:
        if node in built.stored:
            constant, label, source = built.stored[node]
            named_after = None if source is None else self._index(source)
            inputs = tuple(map(self._index, constant.inputs))
            index = self._index(constant)
            return _Storing(index, constant.dtype, inputs, label, named_after)
        assert node.op in CALLS, "no outline holds a call of a module"
        like = built.copies.get(node)
        return Step(
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
            items = Operands(map(self._template, value))
            return items if any(map(_is_operand, items)) else value
        if not is_literal(value):
            raise Unrepeatable
        return value


def _is_operand(template: Any) -> bool:
    return isinstance(template, (Index, Operands))


def _indices(values: list[Any]) -> dict[Any, int]:
    return {value: index for index, value in enumerate(values)}
