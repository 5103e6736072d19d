"""What the `test` blocks beside a rule show: the types and literals it is meant for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from torch import fx

from rewrite_engine.dsl.checked import Test
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.run import find
from rewrite_engine.rule_tests import examples_of
from rewrite_engine.tensor_types import type_of
from rewrite_engine.verification.cases import Case, Tensor
from rewrite_engine.verification.choices import Choice
from rewrite_engine.verification.operands import Operand
from rewrite_engine.verification.subject import Example, Given, Subject


def with_examples(subject: Subject, tests: Iterable[Test]) -> Subject:
    """The subject, with an example for every place where a test matches it."""
    matches = (
        match
        for module in examples_of(tests)
        for match in find(subject.program, module, recurse=False)
    )
    return attrs.evolve(subject, examples=tuple(map(_example, matches)))


def _example(match: Match) -> Example:
    types, literals = {}, {}
    for name, value in match.bindings.items():
        if value is None:
            continue  # absent there
        if not isinstance(value, fx.Node):
            literals[name] = value
        elif (given := _given(value.meta.get("val"))) is not None:
            types[name] = given
    return Example(match.row, types, literals)


def _given(value: Any) -> Given | None:
    known = type_of(value)
    return None if known is None else Given((known.dtype,), shape=known.shape)


def example_cases(tests: Iterable[Test], instance: Instance) -> Iterator[Case]:
    """The graphs of tests, in the place of an instance that needs more around it."""
    for module in examples_of(tests):
        yield _case(module, instance)


def _case(module: fx.GraphModule, instance: Instance) -> Case:
    tensors, state = {}, {}
    nodes = module.graph.find_nodes(op="placeholder")
    for node in [*nodes, *module.graph.find_nodes(op="get_attr")]:
        value = node.meta["val"]
        shape = tuple(map(int, value.shape))
        tensors[node.name] = Tensor(Operand(shape), value.dtype, "contiguous")
        if node.op == "get_attr":
            state[node.name] = str(node.target)
    buffers = dict(module.named_buffers())
    are_buffers = frozenset(name for name, path in state.items() if path in buffers)
    return Case(
        module.graph,
        tensors,
        state,
        instance,
        Choice(),
        buffers=are_buffers,
        is_example=True,
    )
