"""Chains `f^*(a)`: what they match, in both matchers, and how they are built again."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, loads
from rewrite_engine.errors import RuleError
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.matcher import candidates, match_at
from rewrite_engine.matching.reference import reference_matches
from rewrite_engine.ruleset import RuleSet
from tests.graphs import chain

aten = torch.ops.aten

UNARY = (aten.relu.default, aten.neg.default, aten.sigmoid.default, aten.abs.default)


def bindings(rules: RuleSet, gm: fx.GraphModule) -> tuple[list[Any], list[Any]]:
    """What each matcher finds first at each node, the rule's own names only."""
    facts, fast, slow = GraphFacts(gm), [], []
    names = {
        n.target for n in rules.rules[0].matcher_graph.find_nodes(op="placeholder")
    }
    for node, programs in candidates(rules.program, facts):
        for program in programs:
            match = match_at(program, node, facts, lambda match: None).match
            fast += [] if match is None else [match.bindings]
    for node in gm.graph.nodes:
        for rule in rules:
            first = next(reference_matches(rule, node, facts), None)
            slow += [] if first is None else [first]
    named = [[{n: b[n] for n in sorted(names)} for b in side] for side in (fast, slow)]
    return named[0], named[1]


PATTERNS = (
    "relu^*(neg(x))",
    "relu^+(x)",
    "step^+(x)",
    "sigmoid(step^*(neg(step^+(x))))",
    "step^*(relu(x))",
    "N@step^+(sigmoid(x))",
    "add(step^*(neg(x)), _) | step^+(sigmoid(x))",
    "relu(pair^*(x))",
)


@pytest.mark.parametrize("seed", range(8))
def test_both_matchers_agree(seed: int) -> None:
    draw = random.Random(seed)
    for pattern in PATTERNS:
        rules = loads(f"""
        pattern step(v) = relu(v) | neg(v)
        pattern pair(v) = abs(relu(v)) | neg(v)
        rule r {{ z = {pattern} => z' = neg(neg(x)) }}
        """)
        for _ in range(6):
            gm = chain(*(draw.choice(UNARY) for _ in range(9)))
            fast, slow = bindings(rules, gm)
            assert fast == slow


def test_the_longest_chain_comes_first() -> None:
    rules = loads("rule r once { z = N@relu^*(x)  y = neg(z) => y' = N(neg(x)) }")
    gm = chain(aten.sigmoid.default, *[aten.relu.default] * 3, aten.neg.default)
    (match,) = engine.find(gm, rules)
    assert str(match.bindings["x"]) == "sigmoid_default"
    assert len(match.bindings["N"].calls) == 3
    engine.apply(gm, rules)
    names = [str(n.target) for n in gm.graph.nodes if n.op == "call_function"]
    assert names == [
        "aten.sigmoid.default",
        "aten.neg.default",
        *["aten.relu.default"] * 3,
    ]


def test_a_chain_of_no_links_is_its_operand() -> None:
    rules = loads("rule r once { y = neg(N@relu^*(x)) => y' = N(abs(x)) }")
    gm = chain(aten.neg.default)
    engine.apply(gm, rules)
    assert [str(n.target) for n in gm.graph.nodes][1] == "aten.abs.default"
    none = loads("rule r once { y = neg(relu^+(x)) => y' = abs(x) }")
    assert engine.find(chain(aten.neg.default), none) == ()


def test_a_link_with_another_reader_ends_the_match_there() -> None:
    graph = fx.Graph()
    first = graph.call_function(aten.relu.default, (graph.placeholder("x"),))
    second = graph.call_function(aten.relu.default, (first,))
    third = graph.call_function(aten.neg.default, (second,))
    graph.output((third, first))
    gm = fx.GraphModule(nn.Module(), graph)
    rules = loads("rule r once { y = neg(relu^*(x)) => y' = abs(x) }")
    (match,) = engine.find(gm, rules)
    # The longer chain reads a value that is also read elsewhere.
    assert match.bindings["x"] is first


def test_names_inside_are_lists_the_outermost_link_first() -> None:
    rules = loads("rule r { z = sigmoid(mul^*(x, s)) where len(s) == 2 => z' = x }")
    graph = fx.Graph()
    x, a, b = (graph.placeholder(name) for name in "xab")
    inner = graph.call_function(aten.mul.Tensor, (x, a))
    outer = graph.call_function(aten.mul.Tensor, (inner, b))
    graph.output(graph.call_function(aten.sigmoid.default, (outer,)))
    gm = fx.GraphModule(nn.Module(), graph)
    (match,) = engine.find(gm, rules)
    assert match.bindings["s"] == [b, a]
    fast, slow = bindings(rules, gm)
    assert fast == slow


def test_long_chains_need_no_recursion() -> None:
    gm = chain(aten.sigmoid.default, *[aten.relu.default] * 1500, aten.neg.default)
    rules = loads("rule r once { y = neg(N@relu^+(sigmoid(x))) => y' = N(neg(x)) }")
    assert engine.apply(gm, rules).report.rules[0].matches == 1


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("rule r { y = relu^*(x) => y' = x }", "E502"),
        ("rule r { y = relu^+() => y' = y }", "E401"),
        ("rule r { y = mul(mul^+(x, s), s) => y' = x }", "E203"),
        ("rule r { y = relu^+(x)  z = mul^+(y, s) => z' = mul(x, s) }", "E407"),
        ("rule r { y = batch_norm^+(x, w?, ..) => y' = x }", "E407"),
    ],
)
def test_what_a_chain_cannot_say(rule: str, code: str) -> None:
    with pytest.raises(RuleError) as error:
        loads(rule)
    assert code in {found.code for found in error.value.diagnostics}


def test_instances_have_the_shortest_chains_and_one_more_link() -> None:
    rules = loads("rule r { y = neg(N@relu^+(x)) => y' = N(neg(x)) }")
    lengths = sorted(
        sum(node.op == "call_function" for node in instance.matcher.graph.nodes)
        for instance in rules["r"].instances()
    )
    assert lengths == [2, 3]
    x = torch.randn(4)
    for instance in rules["r"].instances():
        assert torch.equal(instance.matcher(x)[0], -x.relu())
        assert torch.equal(instance.replacement(x)[0], (-x).relu())


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("N@add?(M@neg^+(x), y)", "N(M(x))"),
        ("N@relu^*(add?(M@neg^+(x), y))", "N(M(x))"),
        ("N@some(x)", "N(x)"),
    ],
)
def test_what_is_captured_is_built_again_once(left: str, right: str) -> None:
    """The links of a chain that a captured call stands on are none of its own."""
    rules = loads(
        "pattern some(v) = sin(v) | neg^+(v)\n"
        f"rule r once {{ z = abs({left}) => z' = neg({right}) }}"
    )
    gm = chain(aten.neg.default, aten.neg.default, aten.abs.default)
    assert engine.apply(gm, rules).modified
    x = torch.randn(3)
    assert torch.equal(gm(x), -x)
    assert len(gm.graph.nodes) == 5
