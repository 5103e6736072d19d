"""Rule sets whose rules share beginnings: what tells them apart loses no match."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import fx, nn

from rewrite_engine import loads
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.branches import Branch
from rewrite_engine.matching.candidates import OperatorIndex, hits
from rewrite_engine.matching.matcher import candidates
from rewrite_engine.matching.net_source import NetFunction, Table, keys_of
from rewrite_engine.matching.sketches import Test
from rewrite_engine.matching.worklist import Change, Worklist
from rewrite_engine.ruleset import RuleSet
from tests.graphs import chain
from tests.matching.test_matchers import fast, random_graph, slow

aten = torch.ops.aten

UNARY = ("relu", "sigmoid", "neg", "aten.relu.default")
BINARY = ("add", "mul", "sub", "aten.add.Tensor")


def pattern(choose: random.Random, depth: int) -> str:
    """A call of few operators, so that random patterns begin alike."""

    def operand() -> str:
        if depth == 0 or choose.random() < 0.3:
            return choose.choice("xxy_")
        return pattern(choose, depth - 1)

    kind = choose.random()
    if kind < 0.4:
        return f"{choose.choice(UNARY)}({operand()})"
    if kind < 0.8:
        other = choose.choice(["2.0", "$k", operand(), operand()])
        return f"{choose.choice(BINARY)}({operand()}, {other})"
    inner = operand()
    return f"(relu({inner}) | neg(sub?({inner}, x)) | sigmoid({inner}))"


def rule_set(seed: int, size: int = 15) -> RuleSet:
    choose = random.Random(seed)
    # The guards always hold; without them, equal patterns would be refused.
    return loads(
        "\n".join(
            f"rule r{i} {{ z = {pattern(choose, 3)} where uses(z) < {1000 + i}"
            " => z' = torch.full([], 1.0) }"
            for i in range(size)
        )
    )


@pytest.mark.parametrize("seed", range(20))
def test_both_matchers_agree_on_random_rule_sets(seed: int) -> None:
    rules = rule_set(seed)
    for number in range(3):
        gm = random_graph(1000 * seed + number, size=25)
        found = fast(rules, gm)
        assert found == slow(rules, gm)
        assert found, "the graph and the rules have nothing in common"


@pytest.mark.parametrize("seed", range(20))
def test_what_a_change_lets_match_is_visited_again(seed: int) -> None:
    rules, gm, choose = rule_set(seed), random_graph(seed, size=40), random.Random(seed)
    facts, nets = GraphFacts(gm), rules.program.nets
    worklist = Worklist(rules.program, facts)
    visited = dict(worklist)
    assert list(visited) == sorted(hits(nets, facts))
    values = [node for node in gm.graph.nodes if node.op != "output"]
    for _ in range(10):
        before = hits(nets, facts)
        new, old = sorted(choose.sample(values, 2))
        moved = {new: list(old.users)}
        old.replace_all_uses_with(new)
        worklist.add(Change((), moved))
        again = dict(worklist)
        assert list(again) == sorted(again)
        for node, numbers in hits(nets, facts).items():
            if set(numbers) - set(before.get(node, ())):
                assert again[node] == rules.program.rules_of(numbers)


@pytest.mark.parametrize("rare", [aten.neg.default, aten.sigmoid.default])
def test_the_rarest_operator_says_where_to_look(rare: fx.node.Target) -> None:
    gm = chain(*[aten.sin.default, aten.relu.default] * 200)
    *_, last, output = gm.graph.nodes
    with gm.graph.inserting_before(last):
        inner = gm.graph.call_function(rare, (last.args[0],))  # type: ignore[arg-type]
    last.args = (inner,)
    rules = loads("rule r { z = relu(neg(sin(x))) => z' = relu(x) }")
    found = [node for node, _ in candidates(rules.program, GraphFacts(gm))]
    assert found == ([last] if rare is aten.neg.default else [])
    assert output.args == (last,)


def test_calls_of_all_kinds_are_indexed() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.act(x.relu()))

    gm = fx.symbolic_trace(Model())
    _, method, module, function, _ = gm.graph.nodes
    index = OperatorIndex.of(gm.graph)
    assert list(index.functions[id(torch.relu)]) == [function]
    assert list(index.methods["relu"]) == [method]
    assert list(index.modules) == [module]


def test_another_fx_without_an_index_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = random_graph(3, size=25)
    known = OperatorIndex.of(gm.graph).functions
    monkeypatch.delattr(gm.graph, "_find_nodes_lookup_table")
    found = OperatorIndex.of(gm.graph).functions
    assert {k: list(v) for k, v in known.items()} == {
        k: list(v) for k, v in found.items()
    }


def test_what_a_rule_file_says_is_no_part_of_the_code() -> None:
    text = "'); import os #"
    rules = loads(
        f'rule r {{ z = aten.gelu.default(x, approximate="{text}") => z\' = relu(x) }}'
    )
    (net,) = rules.program.nets.values()
    assert text not in net.function.text


def test_a_net_grows_with_its_tests_however_operators_can_be_spelled() -> None:
    chains = product(["relu", "tanh", "silu"], repeat=4)
    rules = loads(
        "\n".join(
            f"rule r{i} {{ z = neg({a}({b}({c}({d}(x))))) => z' = x }}"
            for i, (a, b, c, d) in enumerate(chains)
        )
    )
    net = next(iter(rules.program.nets.values()))
    sought = sum(len(keys_of(test)) for test in _tests(net.tree))
    assert 0 < sum(len(table.ways) for table in _tables(net.function)) <= sought


def _tests(branch: Branch) -> Iterator[Test]:
    """All tests below a branch, equal ones in several places included."""
    for tests in branch.tests.values():
        for test, below in tests.items():
            yield test
            yield from _tests(below)


def _tables(function: NetFunction) -> dict[Table, None]:
    """The tables of a function and of those that it calls, each once."""
    found: dict[Table, None] = {}
    pending: list[NetFunction | Table] = [function]
    while pending:
        match pending.pop():
            case NetFunction(functions=tables):
                pending += tables.values()
            case Table(ways) as table if table not in found:
                found[table] = None
                for way in dict.fromkeys(ways.values()):
                    pending += [way] if isinstance(way, Table) else way
    return found
