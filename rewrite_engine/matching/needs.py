"""What rules ask of the calls of a graph, in names that every process gives them.

Where a rule is tried, all tests of one of its sketches hold. So it is tried nowhere in
a graph that has, for every sketch, none of the calls of some test. Two operators of one
name would only make a rule that is not needed look needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.candidates import OperatorIndex
from rewrite_engine.matching.program import RuleProgram
from rewrite_engine.matching.sketches import IsCall

Names = frozenset[str]
"""What may be called in one place."""


def calls_needed(program: RuleProgram) -> frozenset[frozenset[Names]]:
    """One of these sets of places has to be there, each with one of its calls."""
    names = dict(_names(_patterns(program.rule.matcher_graph)))
    anchors: dict[frozenset[Names], set[str]] = {}
    for (_, anchor), ways in program.sketches.items():
        for way in ways:
            tests = (test.keys for test in way if isinstance(test, IsCall))
            places = frozenset(frozenset(names[k] for _, k in keys) for keys in tests)
            anchors.setdefault(places, set()).add(names[anchor])
    return frozenset(places | {frozenset(anchor)} for places, anchor in anchors.items())


def calls_made(rule: CompiledRule) -> frozenset[Names]:
    """What may be called where the rule puts calls that it did not match."""
    patterns = rule.operators_built
    return frozenset(frozenset(name for _, name in _names([p])) for p in patterns)


def calls_in(module: fx.GraphModule) -> set[str]:
    """The names of what a graph and those of its submodules call."""
    graphs = (each for each in module.modules() if isinstance(each, fx.GraphModule))
    return {name for graph in graphs for name in _called(graph)}


def _called(module: fx.GraphModule) -> Iterator[str]:
    index, facts = OperatorIndex.of(module.graph), GraphFacts(module)
    for nodes in (*index.functions.values(), *index.methods.values()):
        yield from (_name(node.target) for node in islice(nodes, 1))
    for node in index.modules:
        # A rule may mean a class and those that are made of it.
        yield from map(_name, type(facts.called(node)).__mro__)


def _patterns(matcher: fx.Graph) -> Iterator[OperatorPattern]:
    targets = (node.target for node in matcher.nodes)
    return (target for target in targets if isinstance(target, OperatorPattern))


def _names(patterns: Iterable[OperatorPattern]) -> Iterator[tuple[object, str]]:
    """The names of all targets of operators, with the second half of their keys."""
    for pattern in patterns:
        for spelling in pattern.spellings:
            for target in spelling.targets:
                key = target if isinstance(target, str) else id(target)
                yield key, _name(target)


def _name(target: Any) -> str:
    if isinstance(target, str):
        return f".{target}"
    if isinstance(target, (OpOverload, OpOverloadPacket)):
        return str(target)
    kind = target if hasattr(target, "__qualname__") else type(target)
    return f"{kind.__module__}.{kind.__qualname__}"
