"""One table of behaviour for the matching program and for the reference matcher."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from rewrite_engine import loads
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.matcher import candidates, match_at
from rewrite_engine.matching.reference import reference_matches
from rewrite_engine.ruleset import RuleSet
from tests.graphs import graph_of

aten = torch.ops.aten
Body = Callable[..., Any]


def fast(rules: RuleSet, gm: fx.GraphModule) -> list[tuple[str, str, dict[str, Any]]]:
    facts = GraphFacts(gm)
    found = []
    for node, programs in candidates(rules.program, facts):
        for program in programs:
            outcome = match_at(program, node, facts, lambda match: None)
            if outcome.match is not None:
                bindings = _plain(outcome.match.bindings)
                found.append((program.rule.name, node.name, bindings))
    return sorted(found, key=lambda item: item[:2])


def slow(rules: RuleSet, gm: fx.GraphModule) -> list[tuple[str, str, dict[str, Any]]]:
    facts = GraphFacts(gm)
    found = []
    for node in gm.graph.nodes:
        for rule in rules:
            bindings = next(reference_matches(rule, node, facts), None)
            if bindings is not None:
                found.append((rule.name, node.name, _plain(bindings)))
    return sorted(found, key=lambda item: item[:2])


def _plain(bindings: Any) -> dict[str, Any]:
    named = {}
    for name, value in bindings.items():
        root = getattr(value, "root", value)
        named[name] = [str(v) for v in root] if isinstance(root, list) else str(root)
    return named


def rule(left: str, right: str = "z' = relu(x)", header: str = "") -> RuleSet:
    return loads(f"{header}\nrule r {{ {left} => {right} }}")


TWICE = "pattern twice(v) = mul(v, 2.0)"

DOUBLED = """
pattern doubled(v) = add(v, v)
pattern scaled_twice(v, $k) = mul(mul(v, $k), $k)
"""


def _relu(f: Any, x: Any) -> Any:
    return f(aten.relu.default, (x,))


def _sin(f: Any, x: Any) -> Any:
    return f(aten.sin.default, (x,))


def _doubled(f: Any, x: Any) -> Any:
    return f(aten.add.Tensor, (x, x))


def _scaled_twice(f: Any, x: Any, first: Any, second: Any) -> Any:
    return f(aten.mul.Tensor, (f(aten.mul.Tensor, (x, first)), second))


def _scaled(f: Any, x: Any) -> Any:
    return f(aten.mul.Tensor, (x, 2.0))


CASES: list[tuple[str, RuleSet, Body, int]] = [
    (
        "positional, keyword and default spell the same call",
        rule("z = aten.add.Tensor(x, y)"),
        lambda f, x, y, _: (
            f(aten.add.Tensor, (x, y)),
            f(aten.add.Tensor, (x,), {"other": y, "alpha": 1}),
            f(aten.add.Tensor, (x, y), {"alpha": 2}),
        ),
        2,
    ),
    (
        "a packet is its only overload, and none of several",
        rule("z = neg(relu6(x)) | neg(aten.relu.default(x))"),
        lambda f, x, y, _: (
            f(aten.neg.default, (f(aten.relu6.default, (x,)),)),
            f(aten.neg.default, (f(aten.relu6, (x,)),)),
            f(aten.neg.default, (f(aten.relu, (x,)),)),
        ),
        2,
    ),
    (
        "an anchor may be such a packet",
        rule("z = relu6(x)"),
        lambda f, x, y, _: f(aten.relu6, (x,)),
        1,
    ),
    (
        "`..` accepts any other argument",
        rule("z = aten.add.Tensor(x, y, ..)"),
        lambda f, x, y, _: f(aten.add.Tensor, (x, y), {"alpha": 2}),
        1,
    ),
    (
        "the same name is the same node",
        rule("z = mul(x, x)"),
        lambda f, x, y, _: (
            f(aten.mul.Tensor, (x, x)),
            f(aten.mul.Tensor, (x, y)),
        ),
        1,
    ),
    (
        "an optional capture is absent where only its operand is",
        rule("y = neg(N@twice?(x))  z = relu(y)  where not N", header=TWICE),
        lambda f, x, y, _: (
            f(aten.relu.default, (f(aten.neg.default, (x,)),)),
            f(aten.relu.default, (f(aten.neg.default, (_scaled(f, x),)),)),
        ),
        2,
    ),
    (
        "an optional capture is there where its pattern is",
        rule("z = neg(N@twice?(x))  where N", "z' = N(relu(x))", header=TWICE),
        lambda f, x, y, _: (
            f(aten.neg.default, (x,)),
            f(aten.neg.default, (_scaled(f, x),)),
        ),
        1,
    ),
    (
        "what a pattern does not mention may be given at its default",
        rule("z = aten.conv1d.default(x, y)"),
        lambda f, x, y, _: (
            f(aten.conv1d.default, (x, y)),
            f(aten.conv1d.default, (x, y, None, [1], [0])),
            f(aten.conv1d.default, (x, y, None, 1)),
            f(aten.conv1d.default, (x, y, None, [2])),
            f(aten.conv1d.default, (x, y, None, [1], [0], [1], 2)),
            f(aten.conv1d.default, (x, y, y)),
        ),
        3,
    ),
    (
        "an operand that is a call may be absent",
        rule("z = linear(x, y, sin(b)?)"),
        lambda f, x, y, _: (
            f(aten.linear.default, (x, y)),
            f(aten.linear.default, (x, y, None)),
            f(aten.linear.default, (x, y, _sin(f, x))),
            f(aten.linear.default, (x, y, x)),
        ),
        3,
    ),
    (
        "the items before and after the others are not among them",
        rule("z = cat([x, *others, x, y])"),
        lambda f, x, y, _: (
            f(aten.cat.default, ([x, x, y],)),
            f(aten.cat.default, ([x, y, y, x, y],)),
            f(aten.cat.default, ([x, y],)),
            f(aten.cat.default, ([x, y, y],)),
        ),
        2,
    ),
    (
        "a guard on the constants of a family's row",
        loads(
            "family Unary(op, $q) = (relu, 1) | (neg, 2) "
            "rule r for (op, $q) in Unary { y = op(x) where $q == 2 => y' = sin(x) }"
        ),
        lambda f, x, y, _: (_relu(f, x), f(aten.neg.default, (x,))),
        1,
    ),
    (
        "what a pattern uses twice is one value, even where that may be any",
        rule("z = neg(doubled(_))", "z' = torch.ones([2])", DOUBLED),
        lambda f, x, y, _: (
            f(aten.neg.default, (f(aten.add.Tensor, (x, y)),)),
            f(aten.neg.default, (f(aten.add.Tensor, (x, x)),)),
        ),
        1,
    ),
    (
        "what a pattern uses twice is one of the alternatives",
        rule("z = neg(doubled(relu(x) | sin(x)))", "z' = relu(x)", DOUBLED),
        lambda f, x, y, _: (
            f(aten.neg.default, (f(aten.add.Tensor, (_relu(f, x), _sin(f, x))),)),
            f(aten.neg.default, (_doubled(f, _relu(f, x)),)),
            f(aten.neg.default, (_doubled(f, _sin(f, x)),)),
        ),
        2,
    ),
    (
        "a literal that a pattern uses twice is one of the alternatives",
        rule("z = neg(scaled_twice(x, 2 | 3))", "z' = relu(x)", DOUBLED),
        lambda f, x, y, _: (
            f(aten.neg.default, (_scaled_twice(f, x, 2, 3.0),)),
            f(aten.neg.default, (_scaled_twice(f, x, 3, 3.0),)),
        ),
        1,
    ),
    (
        "all calls of a family's operator are of one row",
        loads(
            "family Unary(op) = relu | sin "
            "rule r for (op) in Unary { y = op(op(x)) => y' = neg(x) }"
        ),
        lambda f, x, y, _: (
            _relu(f, _sin(f, x)),
            _sin(f, _relu(f, x)),
            _sin(f, _sin(f, y)),
        ),
        1,
    ),
    (
        "a literal that is named twice is equal, not the same object",
        rule("z = mul(mul(x, $k), $k)"),
        lambda f, x, y, _: (
            _scaled_twice(f, x, 2, 2.0),
            _scaled_twice(f, x, 2, 3.0),
        ),
        1,
    ),
    (
        "two names may be one node",
        rule("z = sub(x, y)", "z' = sub(y, x)"),
        lambda f, x, y, _: f(aten.sub.Tensor, (x, x)),
        1,
    ),
    (
        "distinct forbids it",
        rule("z = sub(x, y) where distinct(x, y)", "z' = sub(y, x)"),
        lambda f, x, y, _: f(aten.sub.Tensor, (x, x)),
        0,
    ),
    (
        "a name never matches a literal",
        rule("z = add(x, y)", "z' = add(y, x)"),
        lambda f, x, y, _: f(aten.add.Tensor, (x, 1.0)),
        0,
    ),
    (
        "a literal name never matches a node",
        rule("z = add(x, $k)", "z' = add(x, $k)"),
        lambda f, x, y, _: (
            f(aten.add.Tensor, (x, y)),
            f(aten.add.Tensor, (x, 2)),
        ),
        1,
    ),
    (
        "a literal is equal or it is not",
        rule("z = add(x, 1.0)", "z' = relu(x)"),
        lambda f, x, y, _: (
            f(aten.add.Tensor, (x, 1)),
            f(aten.add.Tensor, (x, True)),
            f(aten.add.Tensor, (x, y)),
        ),
        1,
    ),
    (
        "operands commute when the class says so",
        rule("z = add(relu(x), y)", "z' = add(x, y)"),
        lambda f, x, y, _: (
            f(aten.add.Tensor, (y, f(aten.relu.default, (x,)))),
            f(aten.add.Tensor, (f(aten.relu.default, (x,)), y)),
        ),
        2,
    ),
    (
        "and only under its condition",
        rule("z = add(relu(x), y, ..)", "z' = add(x, y)"),
        lambda f, x, y, _: f(
            aten.add.Tensor, (y, f(aten.relu.default, (x,))), {"alpha": 3}
        ),
        0,
    ),
    (
        "an operand may be absent",
        rule("z = aten.linear.default(x, w, b?)", "z' = linear(x, w, b)"),
        lambda f, x, w, b: (
            f(aten.linear.default, (x, w)),
            f(aten.linear.default, (x, w, None)),
            f(aten.linear.default, (x, w, b)),
        ),
        3,
    ),
    (
        "an optional name has one value in the whole match",
        rule(
            "y = aten.linear.default(x, w, b?)  z = add?(y, b)",
            "z' = linear(x, w, b)",
        ),
        lambda f, x, w, b: (
            f(aten.add.Tensor, (f(aten.linear.default, (x, w)), b)),
            f(aten.add.Tensor, (f(aten.linear.default, (x, w, b)), b)),
        ),
        # Without its addition the first linear is a match; with it, `b` is absent in
        # one place and present in the other. The second pair matches as a whole.
        2,
    ),
    (
        "alternatives backtrack",
        rule(
            "z = mul(relu(x) | x, sigmoid(x))",
            "z' = silu(x)",
        ),
        lambda f, x, y, _: (
            f(
                aten.mul.Tensor,
                (f(aten.relu.default, (x,)), f(aten.sigmoid.default, (x,))),
            ),
            f(aten.mul.Tensor, (x, f(aten.sigmoid.default, (x,)))),
            f(aten.mul.Tensor, (y, f(aten.sigmoid.default, (x,)))),
        ),
        2,
    ),
    (
        "macros expand with their own names",
        rule(
            "z = add(twice(x), twice(y))",
            "z' = add(x, y)",
            "pattern twice(v) = mul(v, 2) | add(v, v)",
        ),
        lambda f, x, y, _: f(
            aten.add.Tensor,
            (f(aten.mul.Tensor, (x, 2)), f(aten.add.Tensor, (y, y))),
        ),
        1,
    ),
    (
        "lists have items and a rest",
        rule("z = cat([relu(x), *others], $d)", "z' = cat([x, *others], $d)"),
        lambda f, x, y, w: (
            f(aten.cat.default, ([f(aten.relu.default, (x,)), y, w], 1)),
            f(aten.cat.default, ([f(aten.relu.default, (x,))], 1)),
            f(aten.cat.default, ([x, y], 1)),
        ),
        2,
    ),
    (
        "a list has the items that the pattern gives it, and no others",
        rule("z = cat([x, y])"),
        lambda f, x, y, w: (
            f(aten.cat.default, ([x, y],)),
            f(aten.cat.default, ([x],)),
            f(aten.cat.default, ([x, y, w],)),
            f(aten.cat.default, (x,)),
        ),
        1,
    ),
    (
        "a list may be empty",
        rule("z = aten.reshape.default(x, [])"),
        lambda f, x, y, _: (
            f(aten.reshape.default, (x, [])),
            f(aten.reshape.default, (x, [1])),
        ),
        1,
    ),
    (
        "a rest that is named twice has the same values, and no literals",
        rule("z = sub(cat([x, *others]), cat([*others]))"),
        lambda f, x, y, w: [
            f(
                aten.sub.Tensor,
                (f(aten.cat.default, (first,)), f(aten.cat.default, (second,))),
            )
            for first, second in [
                ([x, y, w], [y, w]),
                ([x, y, w], [w, y]),
                ([x, y], [y, w]),
                ([x, 1, y], [1, y]),
            ]
        ],
        1,
    ),
    (
        "what was present in one place is absent in no other",
        rule("z = sub(aten.linear.default(x, w, b?), add?(x, b))"),
        lambda f, x, w, b: [
            f(aten.sub.Tensor, (f(aten.linear.default, (x, w, *held)), other))
            for held, other in [
                ((), x),
                ((b,), f(aten.add.Tensor, (x, b))),
                ((b,), x),
                ((), f(aten.add.Tensor, (x, b))),
            ]
        ],
        2,
    ),
    (
        "operands commute in calls of one row",
        loads(
            "family Binary(op) = add | mul "
            "rule r for (op) in Binary { z = op(op(relu(x), y), sin(x)) => z' = y }"
        ),
        lambda f, x, y, _: [
            f(outer, (_sin(f, x), f(inner, (y, _relu(f, x)))))
            for outer in (aten.add.Tensor, aten.mul.Tensor)
            for inner in (aten.add.Tensor, aten.mul.Tensor)
        ],
        2,
    ),
    (
        "a spelling with another default is not at that of the operator",
        rule("z = loss(x, y)", header="op loss = aten.mse_loss.default | F.mse_loss"),
        lambda f, x, y, _: (
            f(aten.mse_loss.default, (x, y)),
            f(torch.nn.functional.mse_loss, (x, y)),
        ),
        1,
    ),
    (
        "further roots are found from what all alternatives share",
        rule("a = neg(N@(relu(x) | sin(x)))  b = sigmoid(x)", "a' = x  b' = relu(x)"),
        lambda f, x, y, _: (
            f(aten.neg.default, (_relu(f, x),)),
            f(aten.sigmoid.default, (x,)),
            f(aten.neg.default, (_sin(f, y),)),
        ),
        1,
    ),
    (
        "further roots stand above what a root shares",
        rule(
            "a = sigmoid(x)  b = cat([neg(N@(relu(x) | sin(x))), y])",
            "a' = x  b' = y",
        ),
        lambda f, x, y, _: (
            f(aten.sigmoid.default, (x,)),
            f(aten.sigmoid.default, (y,)),
            f(aten.cat.default, ([f(aten.neg.default, (_sin(f, x),)), y],)),
        ),
        1,
    ),
    (
        "values are the same where guards say so",
        rule("z = sub(relu(x), relu(y)) where x == y, not x != y"),
        lambda f, x, y, _: [
            f(aten.sub.Tensor, (_relu(f, x), _relu(f, other))) for other in (x, y)
        ],
        1,
    ),
    (
        "what is absent is no constant, and matches nothing",
        rule("z = aten.linear.default(x, w, b?) where b is const or b ~ relu(_)"),
        lambda f, x, w, b: (
            f(aten.linear.default, (x, w)),
            f(aten.linear.default, (x, w, _relu(f, b))),
        ),
        1,
    ),
    (
        "a condition of a literal",
        rule("z = add(x, $k) where ($k if $k > 1 else 2) == 2"),
        lambda f, x, y, _: [f(aten.add.Tensor, (x, k)) for k in (0, 2, 3)],
        2,
    ),
    (
        "what an operator has no parameter for must be at its default",
        rule(
            "z = loss(x, y, ..)", header="op loss = aten.mse_loss.default | F.mse_loss"
        ),
        lambda f, x, y, _: [
            f(torch.nn.functional.mse_loss, (x, y, *average))
            for average in [(), (None,), (True,)]
        ],
        2,
    ),
    (
        "a dictionary is a literal if it holds no graph value",
        rule("z = add(x, $k)", header="op add = operator.add"),
        lambda f, x, y, _: [f(operator.add, (x, {"a": v})) for v in (1, y)],
        1,
    ),
    (
        "a structural guard",
        rule("z = relu(x) where not x ~ relu(_)"),
        lambda f, x, y, _: f(aten.relu.default, (f(aten.relu.default, (x,)),)),
        1,
    ),
    (
        "the number of readers",
        rule("y = relu(x)  z = relu(y) where uses(x) == 1"),
        lambda f, x, y, _: (
            f(aten.relu.default, (f(aten.relu.default, (x,)),)),
            f(aten.relu.default, (f(aten.relu.default, (y,)),)),
            f(aten.neg.default, (y,)),
        ),
        1,
    ),
    (
        "further roots are found from shared values",
        rule("a = relu(x)  b = sigmoid(x)", "a' = relu(x)  b' = sigmoid(x)"),
        lambda f, x, y, _: (
            f(aten.relu.default, (x,)),
            f(aten.sigmoid.default, (y,)),
            f(aten.relu.default, (y,)),
        ),
        1,
    ),
]


@pytest.mark.parametrize("matcher", [fast, slow])
@pytest.mark.parametrize(
    ("rules", "body", "count"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_behaviour(
    matcher: Callable[..., list[Any]], rules: RuleSet, body: Body, count: int
) -> None:
    """Both matchers find as many places as the table says."""
    assert len(matcher(rules, graph_of(body))) == count


@pytest.mark.parametrize(
    ("rules", "body"),
    [case[1:3] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_both_matchers_bind_the_same(rules: RuleSet, body: Body) -> None:
    gm = graph_of(body)
    assert fast(rules, gm) == slow(rules, gm)


UNARY = [aten.relu.default, aten.sigmoid.default, aten.neg.default]
BINARY = [aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor]
RANDOM_RULES = loads(
    """
    pattern act(v) = relu(v) | sigmoid(v)
    pattern scaled(v) = mul(v, $k) | v
    rule shared    { z = add(act(x), act(x)) => z' = relu(x) }
    rule diamond   { a = relu(x)  z = mul(add(a, y), a) => z' = relu(x) }
    rule optional  { z = add?(mul(x, y), relu(x)) => z' = relu(x) }
    rule deep      { z = neg(scaled(act(scaled(x)))) => z' = relu(x) }
    rule captured  { z = sub(A@act(x), y) => z' = sub(A(y), x) }
    rule two_roots { a = relu(x)  b = neg(mul(x, y)) => a' = relu(x)  b' = neg(y) }
    rule guarded   { z = add(x, y) where x ~ act(y) or uses(y) > 1 => z' = add(y, x) }
    """
)


def random_graph(seed: int, size: int) -> fx.GraphModule:
    choose = random.Random(seed)
    graph = fx.Graph()
    values = [graph.placeholder(f"x{i}") for i in range(2)]
    for _ in range(size):
        operand = choose.choice(values[-6:])
        if choose.random() < 0.5:
            values.append(graph.call_function(choose.choice(UNARY), (operand,)))
            continue
        other = choose.choice([*values[-6:], 2.0, operand])
        call = graph.call_function(choose.choice(BINARY), (operand, other))
        values.append(call)
    graph.output(tuple(values[-3:]))
    return fx.GraphModule(torch.nn.Module(), graph)


@pytest.mark.parametrize("seed", range(40))
def test_both_matchers_agree_on_random_graphs(seed: int) -> None:
    gm = random_graph(seed, size=30)
    found = fast(RANDOM_RULES, gm)
    assert found == slow(RANDOM_RULES, gm)


def test_random_graphs_exercise_every_rule() -> None:
    fired = {
        match[0]
        for seed in range(40)
        for match in fast(RANDOM_RULES, random_graph(seed, size=30))
    }
    assert fired == {compiled.name for compiled in RANDOM_RULES}


def test_a_search_is_bounded() -> None:
    sums = [f"add(a{i}, b{i})" for i in range(14)]
    rules = rule(f"z = cat([{', '.join(sums)}, mul(c, $k)]) where $k > 5", "z' = c")
    gm = graph_of(
        lambda f, x, y, _: f(
            aten.cat.default,
            ([*(f(aten.add.Tensor, (x, y)) for _ in sums), _scaled(f, x)],),
        )
    )
    (program,), anchor = rules.program.rules, gm.graph.output_node().args[0]
    outcome = match_at(program, anchor, GraphFacts(gm), lambda match: None)
    assert outcome.reason == "the search took more than 10000 steps"


def test_a_dimension_has_one_size() -> None:
    gm = graph_of(
        lambda f, square, wide: [f(aten.neg.default, (v,)) for v in (square, wide)],
        square=torch.ones(2, 2),
        wide=torch.ones(2, 3),
    )
    found = fast(square := rule("z = neg(x) where x: [$N, $N]"), gm)
    assert found == slow(square, gm)
    assert [match[2]["x"] for match in found] == ["square"]


def test_all_anchors_may_read_what_they_are_found_by() -> None:
    def body(f: Any, x: Any, y: Any, _: Any) -> Any:
        shared = _sin(f, x)
        return [_relu(f, shared) for _ in range(40)]

    gm = graph_of(body)
    rules = rule("z = relu(sin(x))")
    assert len(fast(rules, gm)) == len(slow(rules, gm)) == 40


def test_torch_constants_are_literals() -> None:
    rules = rule("z = aten._to_copy.default(x, dtype=torch.float16)")
    gm = graph_of(
        lambda f, x, y, _: (
            f(aten._to_copy.default, (x,), {"dtype": torch.float16}),
            f(aten._to_copy.default, (x,), {"dtype": torch.float32}),
        )
    )
    assert len(fast(rules, gm)) == len(slow(rules, gm)) == 1
