"""Matcher graphs know where in the rule each of their calls is written."""

from __future__ import annotations

from rewrite_engine import loads
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.rule import CompiledRule

TEXT = """
pattern scaled(v, $k) = mul(v, $k)

rule r {
  y = conv2d(x, w, b?, ..)
  z = add(scaled(y, 2.0), relu?(y), alpha=1)
  where x: f32, not w ~ relu(_)
=>
  z' = relu(y)
}
"""


def written(rule: CompiledRule, span: object) -> str:
    return rule.source.text[span.start : span.end]


def test_calls_know_where_they_are_written() -> None:
    (rule,) = loads(TEXT)
    calls = [
        written(rule, node.meta["span"])
        for node in rule.matcher_graph.nodes
        if isinstance(node.target, OperatorPattern)
    ]
    assert calls == [
        "conv2d(x, w, b?, ..)",
        "scaled(y, 2.0)",  # what a macro expands to stands where it is called
        "relu?(y)",
        "add(scaled(y, 2.0), relu?(y), alpha=1)",
        "relu(_)",
    ]


def test_operands_and_guards_know_it_too() -> None:
    (rule,) = loads(TEXT)
    named = {node.name: node for node in rule.matcher_graph.nodes}
    operands = named["z"].meta["operands"]
    assert {key: written(rule, span) for key, span in operands.items()} == {
        0: "scaled(y, 2.0)",
        1: "relu?(y)",
        "alpha": "1",
    }
    guards = [n for n in rule.matcher_graph.nodes if "guard" in n.meta]
    assert [written(rule, n.meta["span"]) for n in guards] == [
        "x: f32",
        "not w ~ relu(_)",
    ]
