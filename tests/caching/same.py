"""What is compared: rules that are read as they are needed, and all of them at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from benches.bench_compile import CALLS
from rewrite_engine import RuleSet, load
from rewrite_engine.caching.known_file import KnownFile

FILLERS = [
    f"rule filler{i} {{ z = {a}({b}({b}(x))) => z' = {b}({a}(x)) }}"
    for i, (a, b) in enumerate((a, b) for a in CALLS for b in CALLS if a < b)
]
"""Rules of operators that few graphs have."""

RELU = "## Once is enough.\nrule relus { z = relu(relu(x)) => z' = relu(x) }"


def graph_of(*names: str) -> fx.GraphModule:
    """A chain of calls, and a product of what is in its middle and at its end."""
    graph = fx.Graph()
    values = [graph.placeholder("x")]
    for name in names:
        call = torch.mul if name == "mul" else getattr(torch, name)
        operands = (
            (values[-1], values[len(values) // 2]) if name == "mul" else values[-1:]
        )
        values.append(graph.call_function(call, tuple(operands)))
    graph.output(values[-1])
    return fx.GraphModule(nn.Module(), graph)


def known(path: Path) -> RuleSet:
    """The rules of a file that is loaded for the second time."""
    load(path)
    found = load(path)
    assert isinstance(found._origin, KnownFile)
    return found


def rows(report: Any) -> list[tuple[object, ...]]:
    """A report without its times."""
    return [(r.name, r.candidates, r.matches, r.refusals) for r in report.rules]


def assert_same(rules: RuleSet, others: RuleSet, module: fx.GraphModule) -> int:
    """Both do the same to a graph; how many rewrites they make."""
    one, other = copy.deepcopy(module), copy.deepcopy(module)
    first, second = rules.apply(one), others.apply(other)
    assert rows(first.report) == rows(second.report)
    assert (first.modified, one.code) == (second.modified, other.code)
    assert str(one.graph) == str(other.graph)
    assert origins(one) == origins(other)
    return first.report.matches


def origins(module: fx.GraphModule) -> list[list[tuple[str, str]]]:
    """What made the nodes, and of which node: the rule and its place."""
    return [
        [(source.name, source.pass_name) for source in node.meta.get("from_node", ())]
        for node in module.graph.nodes
    ]
