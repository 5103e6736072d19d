"""What an explanation says about refusals, dialects, other rules and single nodes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn

from rewrite_engine import GraphError, engine, loads
from rewrite_engine.explaining.text import explanation_text
from rewrite_engine.graph_text import graph_text
from tests.graphs import chain, graph_of

aten = torch.ops.aten


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("total", torch.zeros(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.fc(x))
        return y + self.fc(y).tanh() * 2.0


def exported() -> torch.export.ExportedProgram:
    return torch.export.export(Model(), (torch.randn(2, 4),))


SCALED = loads("rule scaled { z = mul(tanh(x), 3.0) => z' = tanh(x) }", "scaled.rules")


def test_a_miss_is_shown_three_ways() -> None:
    (miss,) = engine.explain(exported(), SCALED).near_misses
    assert (miss.held, miss.steps, miss.first.kind) == (2, 3, "literal")
    assert [node.name for node in miss.first.nodes] == ["mul"]
    text = str(engine.explain(exported(), SCALED))
    assert "  `3.0` is expected, `other` of `%mul` is `2.0`\n" in text
    assert "rule   scaled.rules:1:32\n" in text
    line = "         1 | rule scaled { z = mul(tanh(x), 3.0) => z' = tanh(x) }\n"
    assert f"{line}           | {'^^^':>34}\n" in text
    assert "graph  %mul: f32[2, 4] = aten.mul.Tensor(%tanh, 2.0)\n" in text
    assert "return y + self.fc(y).tanh() * 2.0\n" in text


def test_the_places_that_are_not_shown_are_counted() -> None:
    def scaled(f: Any, x: fx.Node) -> fx.Node:
        for _place in range(6):
            x = f(aten.mul.Tensor, (f(aten.tanh.default, (x,)), 2.0))
        return x

    explanation = engine.explain(graph_of(scaled), SCALED)
    text = str(explanation)
    assert text.count("near miss at") == 3
    assert "\n  and 3 more where at least half of the steps hold: " in text
    assert "--most 6" in text and "near_misses" in text
    everything = explanation_text(explanation, 6)
    assert everything.count("near miss at") == 6 and " more where" not in everything


def test_nothing_is_changed() -> None:
    program = exported()
    before, code = graph_text(program), program.graph_module.code
    engine.explain(program, loads("rule r { z = tanh(x) => z' = sigmoid(x) }"))
    engine.explain(program, SCALED)
    assert graph_text(program) == before
    assert program.graph_module.code == code
    program.validate()


def test_an_outside_reader_is_named_with_the_call_that_it_reads() -> None:
    rules = loads("rule r { z = relu(linear(x, w, b)) => z' = linear(x, w, b) }")
    gm = graph_of(
        lambda f, x, w, b: f(
            aten.add.Tensor,
            (
                f(aten.relu.default, (y := f(aten.linear.default, (x, w, b)),)),
                y,
            ),
        )
    )
    miss = engine.explain(gm, rules).near_misses[0]
    assert miss.refused
    assert miss.first.message == "'linear_default' is also read by 'add_tensor'"
    assert [n.name for n in miss.first.nodes] == ["linear_default", "add_tensor"]
    (rule,) = rules
    span = miss.first.span
    assert rule.source.text[span.start : span.end] == "linear"
    assert "keep" in (miss.first.hint or "")


def test_a_result_of_another_type_is_refused() -> None:
    rules = loads("rule r { z = flatten(x, 1) => z' = relu(x) }")
    program = torch.export.export(nn.Flatten(), (torch.randn(2, 3, 4),))
    assert program.graph.find_nodes(op="call_function", target=aten.flatten.using_ints)
    (miss,) = engine.explain(program, rules).near_misses
    assert miss.refused
    assert "shape [2, 12] would become [2, 3, 4]" in miss.first.message


def test_what_another_rule_takes_first_is_said() -> None:
    rules = loads(
        """
        rule large { z = relu(tanh(relu(x))) => z' = sigmoid(x) }
        rule small { z = tanh(relu(x)) => z' = exp(x) }
        """
    )
    gm = graph_of(
        lambda f, x: f(
            aten.relu.default,
            (f(aten.tanh.default, (f(aten.relu.default, (x,)),)),),
        )
    )
    large, small = engine.explain(gm, rules).rules
    assert [node.name for node in small.matches] == ["tanh_default"]
    (miss,) = (miss for miss in large.near_misses if miss.refused)
    assert miss.first.message == "the rule `small` rewrites 'tanh_default' first"


def test_rules_that_never_end_are_said_to() -> None:
    rules = loads("rule grow { z = neg(x) => z' = neg(neg(neg(x))) }")
    gm = graph_of(lambda f, x: f(aten.neg.default, (x,)))
    before = copy.deepcopy(gm)
    explanation = engine.explain(gm, rules)
    assert explanation.stopped is not None
    assert "may match what it builds" in str(explanation)
    assert graph_text(gm) == graph_text(before)


DIALECTS = {
    "spelling": ("op mycat = torch.cat", "mycat([x, y], 0)", aten.cat.default),
    "overload": ("op plus = aten.add.Tensor", "plus(x, 1)", aten.add.Scalar),
    "decomposed": ("op fc = aten.linear.default", "fc(x, y, z)", aten.addmm.default),
}


@pytest.mark.parametrize("relation", DIALECTS)
def test_another_dialect_is_named_as_such(relation: str) -> None:
    op, pattern, target = DIALECTS[relation]
    rules = loads(f"{op}\nrule r {{ o = relu({pattern}) => o' = relu(x) }}")
    arguments = {
        "spelling": lambda x, y, z: ([x, y],),
        "overload": lambda x, y, z: (x, 1),
        "decomposed": lambda x, y, z: (z, x, y),
    }[relation]
    gm = graph_of(
        lambda f, x, y, z: f(aten.relu.default, (f(target, arguments(x, y, z)),))
    )
    (explained,) = engine.explain(gm, rules).rules
    miss = explained.near_misses[0]
    assert miss.first.kind == "dialect"
    assert f"`{target}`" in miss.first.message
    assert any(f"`{target}`" in note for note in explained.notes)
    assert miss.first.hint


@pytest.mark.parametrize("target", [aten.conv1d.default, aten.mm.default], ids=str)
def test_a_rule_of_both_dialects_is_told_of_neither(target: Any) -> None:
    rules = loads("""
    family Conv(op) = conv_transpose1d | aten.convolution.default
    rule r for conv in Conv { y = conv(x, w, ..)  z = relu(y) => z' = conv(x, w, ..y) }
    rule s { z = relu(matmul(a, b) | mm(a, b)) => z' = mm(a, b) }
    """)
    gm = graph_of(lambda f, x, w: f(aten.neg.default, (f(target, (x, w)),)))
    assert not any(each.notes for each in engine.explain(gm, rules).rules)


def test_a_call_that_another_rule_has_rewritten_is_of_no_other_dialect() -> None:
    rules = loads("""
    rule composed { z = relu(matmul(a, b)) => z' = matmul(b, a) }
    rule decomposed { z = relu(mm(a, b)) => z' = mm(b, a) }
    """)
    gm = graph_of(lambda f, x, y: f(aten.relu.default, (f(aten.mm.default, (x, y)),)))
    first, second = engine.explain(gm, rules).rules
    assert second.matches and not first.notes
    (alone,) = engine.explain(gm, rules.only("composed")).rules
    assert "aten.mm.default" in alone.notes[0]


def test_a_module_where_the_rule_has_functions() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    rules = loads("""
    op fc = aten.linear.default
    op act = aten.relu.default
    rule r { z = act(fc(x, w, b)) => z' = fc(x, w, b) }
    """)
    (explained,) = engine.explain(gm, rules).rules
    assert [note.partition(",")[0] for note in explained.notes] == [
        "your graph calls the module nn.ReLU '1'",
        "your graph calls the module nn.Linear '0'",
    ]
    assert explained.near_misses[0].first.kind == "dialect"
    assert "torch.export.export" in (explained.near_misses[0].first.hint or "")


def test_a_second_root_that_is_not_there() -> None:
    rules = loads("rule r { a = relu(x)  b = tanh(x) => a' = sigmoid(x)  b' = exp(x) }")
    gm = graph_of(lambda f, x: f(aten.relu.default, (x,)))
    (miss,) = engine.explain(gm, rules).near_misses
    assert miss.first.kind in ("missing", "operator")
    assert "tanh" in rules["r"].source.text[slice(*_ends(miss.first.span))]


def _ends(span: Any) -> tuple[int, int]:
    return span.start, span.end


def test_a_chain_without_a_link() -> None:
    rules = loads("rule r { z = sigmoid(relu^+(tanh(x))) => z' = sigmoid(x) }")
    calls = aten.tanh, aten.relu, aten.relu, aten.sigmoid
    assert engine.find(chain(*(call.default for call in calls)), rules)
    gm = chain(aten.tanh.default, aten.sigmoid.default)
    miss = engine.explain(gm, rules).near_misses[0]
    assert (miss.held, miss.steps) == (2, 3)
    assert miss.first.message == (
        "at least 1 of `relu` is expected, the graph has "
        "`aten.tanh.default` (`%tanh_default`)"
    )


def test_a_chain_with_a_wrong_link() -> None:
    rules = loads("rule r { z = sigmoid(relu^*(tanh(x))) => z' = sigmoid(x) }")
    calls = aten.tanh, aten.relu, aten.exp, aten.relu, aten.sigmoid
    gm = chain(*(call.default for call in calls))
    miss = engine.explain(gm, rules).near_misses[0]
    assert [node.name for node in miss.first.nodes][:1] == ["exp_default"]


def test_one_rule_is_explained_on_request() -> None:
    rules = loads(
        """
        rule a { z = relu(relu(x)) => z' = relu(x) }
        rule b { z = tanh(tanh(x)) => z' = tanh(x) }
        """
    )
    explanation = engine.explain(exported(), rules, rule="b")
    assert [rule.rule.name for rule in explanation.rules] == ["b"]
    with pytest.raises(KeyError, match="no rule `c`; there is a, b"):
        engine.explain(exported(), rules, rule="c")


def test_a_node_that_is_not_there() -> None:
    with pytest.raises(GraphError, match="did you mean `tanh`"):
        engine.explain(exported(), SCALED, node="tanhh")


def test_a_large_graph_is_explained_in_bounded_steps() -> None:
    def body(f: Any, x: fx.Node) -> fx.Node:
        for _ in range(3000):
            x = f(aten.mul.Tensor, (f(aten.tanh.default, (x,)), 2.0))
        return x

    gm = graph_of(body)
    explanation = engine.explain(gm, SCALED)
    assert explanation.near_misses[0].first.kind == "literal"
    assert len(explanation.near_misses) <= 64


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = x.tanh() * 2.0
        near, far = (lambda v: v.tanh() * 4.0), (lambda v: v.tanh() * 3.0)
        return torch.cond(x.sum() > 0, near, far, (x,)) + 1


def test_nested_graphs_are_looked_at_when_asked_for() -> None:
    program = torch.export.export(Branches(), (torch.ones(2),))
    found = engine.explain(program, SCALED, recurse=True)
    assert "rewrites 1 place (%false_graph_0.mul);" in str(found)
    inside = [miss.anchor.graph for miss in found.near_misses]
    assert sorted(found.graphs[graph] for graph in inside) == [
        "submod_1",
        "true_graph_0",
    ]
    text = str(found)
    assert "near miss at %true_graph_0.mul: 2 of 3 steps hold\n" in text
    assert "graph  %mul: f32[2] = aten.mul.Tensor(%tanh, 4.0)\n" in text
    assert "         return torch.cond(x.sum() > 0, near, far, (x,)) + 1\n" in text


def test_graphs_that_are_not_looked_at_are_named() -> None:
    program = torch.export.export(Branches(), (torch.ones(2),))
    (rule,) = engine.explain(program, SCALED).rules
    assert rule.near_misses == ()
    (note,) = rule.notes
    assert note.startswith("only `recurse` looks into the graphs inside: ")
    assert "`true_graph_0`" in note and "`false_graph_0`" in note
    assert engine.explain(exported(), SCALED).rules[0].notes == ()


def test_a_node_of_a_nested_graph_is_asked_about_by_its_path() -> None:
    program = torch.export.export(Branches(), (torch.ones(2),))
    asked = engine.explain(program, SCALED, node="true_graph_0.mul", recurse=True)
    (miss,) = asked.near_misses
    assert miss.anchor is asked.near_misses[0].first.nodes[0]
    with pytest.raises(GraphError, match="lies in a graph inside: say `recurse`"):
        engine.explain(program, SCALED, node="true_graph_0.mul")
    with pytest.raises(GraphError, match="several graphs have a node `tanh`: "):
        engine.explain(program, SCALED, node="tanh", recurse=True)
    by_node = engine.explain(program, SCALED, node=miss.anchor, recurse=True)
    assert by_node.near_misses[0].anchor is miss.anchor


def test_a_guard_with_a_reason_refuses_and_points_at_the_call_of_its_literal() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    dropped = graph.call_function(torch.ops.aten.dropout.default, (x, 0.5, True))
    graph.output(graph.call_function(torch.ops.aten.neg.default, (dropped,)))
    gm = fx.GraphModule(torch.nn.Module(), graph)
    rules = loads("""
    rule r {
      y = neg(dropout(x, $p, $train))
      where $train == false else "it is training"
    => y' = neg(x) }
    """)
    explanation = engine.explain(gm, rules)
    (miss,) = explanation.near_misses
    assert miss.refused and "it is training" in miss.first.message
    assert miss.first.nodes == (dropped,)
    assert "refused at %neg_default: 2 of 3 steps hold" in str(explanation)


def test_a_guard_on_what_is_absent_says_so() -> None:
    rules = loads("""
    rule r {
      z = div(relu(x), 6.0) | mul(relu(x), $k)
      where $k - 0.5 < 0.1
    => z' = x }
    """)
    gm = graph_of(lambda f, x: f(aten.div.Tensor, (f(aten.relu.default, (x,)), 6.0)))
    (miss,) = (m for m in engine.explain(gm, rules).near_misses if m.held == 3)
    assert miss.first.message == "`$k - 0.5 < 0.1` cannot be decided: `$k` is absent"
    assert "`not $k or …`" in (miss.first.hint or "")


def test_a_guard_on_a_type_that_is_not_recorded_says_how_to_record_it() -> None:
    rules = loads("rule r { z = relu(relu(x)) where x: f32 => z' = relu(x) }")
    gm = chain(aten.relu.default, aten.relu.default)
    (miss,) = (m for m in engine.explain(gm, rules).near_misses if m.held == 2)
    assert "the type of 'x' is not known" in miss.first.message
    assert "FakeTensorProp" in (miss.first.hint or "")


def test_in_a_chain_of_one_operator_another_literal_is_nearest() -> None:
    rules = loads("rule r { z = add(add(add(a, b), c), 6) => z' = a }")

    def body(f: Any, x: fx.Node, y: fx.Node) -> fx.Node:
        for operand in (y, y, y, y, 7, y, y, y, y):
            x = f(aten.add.Tensor, (x, operand))
        return x

    first, *_ = engine.explain(graph_of(body), rules).near_misses
    assert first.anchor.args[1] == 7
    assert first.first.message.startswith("`6` is expected, ")
