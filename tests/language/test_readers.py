"""Guards on every reader of a value."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, loads
from rewrite_engine.errors import RuleError
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.reference import reference_matches

aten = torch.ops.aten

ALL = "rule r { keepers = neg(y)  y = relu(x) where readers(y) ~ P => keepers' = y }"


def model(*readers: object) -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(aten.relu.default, (x,))
    found = [graph.call_function(aten.neg.default, (y,))]
    found += [graph.call_function(target, (y,)) for target in readers]
    found += [graph.call_method("size", (y, 0))]
    graph.output(tuple(found))
    return fx.GraphModule(nn.Module(), graph)


@pytest.mark.parametrize(
    ("pattern", "readers", "expected"),
    [
        ("neg(y)", (), True),
        ("neg(_)", (aten.abs.default,), False),
        ("neg(y) | abs(y)", (aten.abs.default,), True),
        ("neg(x)", (), False),
    ],
)
def test_all_readers(pattern: str, readers: tuple[object, ...], expected: bool) -> None:
    rules = loads(ALL.replace("P", pattern).replace("=>", "=>  keep y "))
    gm = model(*readers)
    assert bool(engine.find(gm, rules)) is expected
    (anchor,) = gm.graph.find_nodes(op="call_function", target=aten.neg.default)
    found = list(reference_matches(rules["r"], anchor, GraphFacts(gm)))
    assert bool(found) is expected


def test_a_guard_may_name_what_only_it_knows() -> None:
    rules = loads("rule r { z = neg(y) where y ~ relu(q) => z' = y }")
    assert len(engine.find(model(), rules)) == 1
    other = loads("rule r { z = neg(y) where y ~ relu(abs(q)) => z' = y }")
    assert engine.find(model(), other) == ()


def test_a_wrong_left_side() -> None:
    with pytest.raises(RuleError) as error:
        loads(ALL.replace("readers(y) ~ P", "neg(y) ~ relu(_)"))
    assert error.value.diagnostics[0].code == "E102"
