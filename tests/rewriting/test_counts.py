"""What a run does on fixed graphs, counted: slower algorithms show without a clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from benches import models, rule_sets
from benches.engines import find
from benches.workloads import WORKLOADS
from rewrite_engine import edit, engine, load, loads
from rewrite_engine.lowering.guards import Condition
from rewrite_engine.matching.machine import Machine
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.net import Net
from rewrite_engine.matching.readings import Reading
from rewrite_engine.rewriting import values
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.effects import is_inert
from rewrite_engine.rewriting.removal import Removal
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.ruleset import RuleSet

BY_NAME = {workload.name: workload for workload in WORKLOADS}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a run creates, erases, takes instructions, and so on."""
    found: Counter[str] = Counter()

    def count(owner: Any, attribute: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, attribute)

        def counted(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, counted)

    class Counting(Machine):
        def run(self, entry: Any, registers: Any) -> bool:
            budget = self.budget
            try:
                return super().run(entry, registers)
            finally:
                found["steps"] += budget - self.budget

    select = Net.select

    def counted_select(net: Net, nodes: Sequence[fx.Node], hits: Any) -> None:
        found["anchors tested"] += len(nodes)
        select(net, nodes, hits)

    monkeypatch.setattr("rewrite_engine.matching.matcher.Machine", Counting)
    monkeypatch.setattr(Net, "select", counted_select)
    count(Transaction, "create", "created")
    count(edit, "erase", "erased")
    count(edit, "disconnect", "arguments set")
    count(edit, "set_arguments", "arguments set")
    count(edit, "replace_input", "arguments set")
    count(Condition, "holds", "guards")
    count(Reading, "read", "calls read")
    count(AliasIndex, "add", "effects indexed")
    count(values, "_convention", "walks for a recorded value")
    return found


def applied(gm: fx.GraphModule, rules: RuleSet, counts: Counter[str]) -> dict[str, int]:
    engine.apply(gm, rules)
    return {name: count for name, count in sorted(counts.items()) if count}


@pytest.mark.parametrize("nodes", [304, 604])
def test_every_node(nodes: int, counts: Counter[str]) -> None:
    workload = BY_NAME["every node"]
    gm, rules = workload.build(nodes), loads(workload.text)
    matches = workload.matches(gm.graph)
    others = sum(not is_inert(node) for node in gm.graph.nodes)
    # A match has three calls, which lose their arguments and go, and makes one, which
    # its one user is set to read. The first is searched for; the others equal it, and
    # as that one's effects were none, theirs are not asked for.
    assert applied(gm, rules, counts) == {
        "anchors tested": matches,
        "arguments set": 4 * matches,
        "calls read": 3,
        "created": matches,
        "effects indexed": others + 1,
        "erased": 3 * matches,
        "steps": 1,
        "walks for a recorded value": 1,
    }


@pytest.mark.parametrize("nodes", [304, 604])
def test_near_misses_are_not_tried(nodes: int, counts: Counter[str]) -> None:
    workload = BY_NAME["near-misses"]
    assert applied(workload.build(nodes), loads(workload.text), counts) == {}


@pytest.mark.parametrize("pairs", [2, 6])
def test_conv_bn_pairs(pairs: int, counts: Counter[str]) -> None:
    gm, rules = models.capture(*models.conv_bn_pairs(pairs)), load("qat_fuse")
    others = sum(not is_inert(node) for node in gm.graph.nodes)
    found = applied(gm, rules, counts)
    # Pairs with a bias alternate with others. The first differs in its channels; from
    # the fourth on all are known.
    searches = min(pairs, 3)
    assert found["created"] == 25 * pairs // 2
    assert found["erased"] == 2 * pairs
    assert found["calls read"] == 2 * searches
    assert found["guards"] == 4 * searches
    assert found["effects indexed"] == others + found["created"]
    assert found["steps"] == searches


@pytest.mark.parametrize("count", [10, 60])
def test_rules_that_match_nowhere_are_not_tried(
    count: int, counts: Counter[str]
) -> None:
    gm = rule_sets.chain(804)
    sequences = rule_sets.rule_set(count, gm)
    rules = loads("\n".join(map(rule_sets.rule_text, sequences, range(count))))
    ends = Counter(sequence[-1] for sequence in sequences)
    anchors = [n for n in gm.graph.nodes if getattr(n.target, "_opname", "") in ends]
    counts.clear()
    matches = len(find(gm, rules))
    assert matches >= len(gm.graph.nodes) // rule_sets.LENGTH
    assert counts["anchors tested"] <= len(anchors)
    assert counts["steps"] == matches


def test_rules_of_absent_operators_test_nothing(counts: Counter[str]) -> None:
    gm = rule_sets.chain(404)
    texts = map(rule_sets.rule_text, rule_sets.absent(60), range(60))
    assert applied(gm, loads("\n".join(texts)), counts) == {}


@pytest.mark.parametrize("calls", [10, 40])
def test_a_refusal_indexes_nothing_again(calls: int, counts: Counter[str]) -> None:
    gm = negations(calls)
    rules = loads("rule r { y = neg(x) => y' = aten.to.dtype(x, torch.float16) }")
    assert len(engine.apply(gm, rules).report.refusals) == calls
    assert counts["created"] == calls
    assert counts["effects indexed"] == 2  # input and output


def negations(calls: int) -> fx.GraphModule:
    graph, mode = fx.Graph(), FakeTensorMode()
    value = graph.placeholder("x")
    value.meta["val"] = mode.from_tensor(torch.ones(2, 3))
    for _ in range(calls):
        known = value.meta["val"]
        value = graph.call_function(torch.ops.aten.neg.default, (value,))
        value.meta["val"] = known
    graph.output(value)
    return fx.GraphModule(torch.nn.Module(), graph)


class Asked(dict[fx.Node, None]):
    """Nodes that are looked up one by one, and not listed, while `is_closed`."""

    is_closed = False

    def keys(self) -> Any:
        assert not self.is_closed
        return super().keys()

    def __iter__(self) -> Iterator[fx.Node]:
        assert not self.is_closed
        return super().__iter__()


def test_no_match_lists_what_others_have_taken_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin, remove, lists = Transaction.__init__, Removal.remove, []

    def beginning(transaction: Transaction, graph: fx.Graph) -> None:
        begin(transaction, graph)
        transaction.detached = Asked()
        lists.append(transaction.detached)

    def removing(removal: Removal, match: Match, built: Built) -> None:
        (detached,) = lists
        detached.is_closed = True
        remove(removal, match, built)
        detached.is_closed = False

    monkeypatch.setattr(Transaction, "__init__", beginning)
    monkeypatch.setattr(Removal, "remove", removing)
    rules = loads("rule r once { z = relu(mul(x, 2)) => z' = tanh(x) }")
    graph = fx.Graph()
    y = graph.placeholder("x")
    for _ in range(3):
        y = graph.call_function(torch.ops.aten.mul.Tensor, (y, 2))
        y = graph.call_function(torch.ops.aten.relu.default, (y,))
    graph.output(y)
    gm = fx.GraphModule(torch.nn.Module(), graph)
    # A match that the caller judges is removed by the general way.
    assert engine.apply(gm, rules, guard=lambda match: None).report.matches == 3
    assert len(lists[0]) == 6
