"""Whatever goes wrong while rules are applied, the graph is as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from rewrite_engine import RewriteError, engine, load, loads
from rewrite_engine.graph_text import graph_text
from rewrite_engine.rewriting import driver, run
from rewrite_engine.rewriting.driver import Limits
from rewrite_engine.rewriting.transaction import Transaction
from tests.graphs import chain, graph_of, snapshot

aten = torch.ops.aten


class Injected(BaseException):
    """Not an `Exception`: like KeyboardInterrupt, nothing may swallow it."""


class Countdown:
    """Lets a function run so many times and then fails, before or after it."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            result = function(*args, **kwargs)
            self.tick()
            return result

        return wrapped

    def tick(self) -> None:
        if self.left == 0:
            raise Injected
        self.left -= 1


STEPS: list[tuple[Any, str]] = [
    (Transaction, "create"),
    (Transaction, "replace_uses"),
    (Transaction, "detach"),
    (Transaction, "erase_detached"),
    (driver, "retarget"),
    (driver, "describe"),
    (fx.GraphModule, "recompile"),
]


def conv_bn() -> fx.GraphModule:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 1, bias=False),
        torch.nn.BatchNorm2d(4),
    )
    program = torch.export.export(model.train(), (torch.randn(2, 3, 8, 8),))
    return program.module()


def folding() -> fx.GraphModule:
    return graph_of(
        lambda f, x, w: f(aten.mul.Tensor, (x, f(aten.mul.Tensor, (w, 2.0)))),
        w=torch.nn.Parameter(torch.arange(3.0)),
    )


FOLD = """
rule fold_scale {
  z = mul(w, $k)  where w is const
=>
  param folded = w * $k
  z' = relu(folded)
}
"""


@pytest.mark.figure("R8")
@pytest.mark.parametrize(
    ("make", "rules"),
    [(conv_bn, load("qat_fuse")), (folding, loads(FOLD))],
    ids=["qat_fuse", "fold"],
)
def test_a_failure_at_any_step_leaves_the_graph_alone(
    make: Callable[[], fx.GraphModule], rules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gm = make()
    before = snapshot(gm)
    for steps in range(10_000):
        countdown = Countdown(steps)
        with monkeypatch.context() as patch:
            for owner, name in STEPS:
                patch.setattr(owner, name, countdown.wrap(getattr(owner, name)))
            try:
                result = engine.apply(gm, rules)
                break
            except Injected:
                assert snapshot(gm) == before, f"failed at step {steps}"
    assert result.modified
    assert steps > 10
    gm.graph.lint()


def test_a_failure_after_the_last_edit_leaves_a_program_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.arange(3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (self.w * 2)

    program = torch.export.export(Scaled(), (torch.ones(3),))

    before = snapshot(program)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_recompile", Countdown(0).wrap(run._recompile))
        with pytest.raises(Injected):
            engine.apply(program, loads(FOLD))
    assert snapshot(program) == before
    assert engine.apply(program, loads(FOLD)).modified
    assert list(program.state_dict) == ["w_folded"]


ENDLESS = {
    "sweeps": (
        "rule fewer { z = relu(relu(x)) => z' = relu(x) }",
        Limits(sweeps=1),
        "still change the graph after 1 sweeps: fewer",
    ),
    "rewrites": (
        "rule again { z = relu(x) => z' = relu(x) }",
        Limits(rewrites=50, rewrites_per_node=0),
        "more than 50 rewrites: again may match what it builds",
    ),
    "rewrites of a node": (
        "rule again { z = relu(x) => z' = relu(x) }",
        Limits(rewrites=0, rewrites_per_node=7),
        "more than 28 rewrites",
    ),
    "growth": (
        "rule grow { z = relu(x) => z' = relu(neg(relu(x))) }",
        Limits(growth=2),
        "the graph grew from 4 to .* nodes: grow may match what it builds",
    ),
}


@pytest.mark.figure("R5")
@pytest.mark.parametrize(
    ("text", "limits", "reason"), ENDLESS.values(), ids=ENDLESS.keys()
)
def test_each_limit_stops_a_run(text: str, limits: Limits, reason: str) -> None:
    gm = chain(aten.relu.default, aten.relu.default)
    before = snapshot(gm)
    with pytest.raises(RewriteError, match=reason):
        engine.apply(gm, loads(text), limits=limits)
    assert snapshot(gm) == before


@pytest.mark.figure("R5")
def test_a_growing_rule_is_stopped_and_taken_back() -> None:
    rules = loads("rule grow { z = relu(x) => z' = relu(neg(relu(x))) }")
    gm = chain(aten.relu.default)
    before = snapshot(gm)
    with pytest.raises(RewriteError, match="grow"):
        engine.apply(gm, rules)
    assert snapshot(gm) == before


@pytest.mark.figure("R5")
def test_two_rules_that_undo_each_other_are_named() -> None:
    rules = loads(
        """
        rule there { z = relu(x) => z' = sigmoid(x) }
        rule back  { z = sigmoid(x) => z' = relu(x) }
        """
    )
    gm = chain(aten.relu.default)
    with pytest.raises(RewriteError, match="back, there"):
        engine.apply(gm, rules)


def test_the_input_may_be_any_graph_but_nothing_else() -> None:
    with pytest.raises(TypeError, match="Linear"):
        engine.apply(torch.nn.Linear(2, 2), load("qat_fuse"))  # type: ignore[arg-type]


@pytest.mark.figure("R4")
def test_a_second_application_changes_nothing() -> None:
    gm = conv_bn()
    rules = load("qat_fuse")
    assert engine.apply(gm, rules).report.matches == 2
    text = graph_text(gm)
    again = engine.apply(gm, rules)
    assert not again.modified
    assert graph_text(gm) == text


def test_the_original_module_is_not_touched_by_a_copy() -> None:
    gm = conv_bn()
    before = snapshot(gm)
    engine.apply(copy.deepcopy(gm), load("qat_fuse"))
    assert snapshot(gm) == before


def test_readers_come_back_in_their_order() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    first, second = (graph.call_function(aten.neg.default, (x,)) for _ in range(2))
    graph.output(second)
    transaction = Transaction(graph)
    transaction.detach(first)
    assert list(x.users) == [second]
    transaction.rollback()
    assert list(x.users) == [first, second]
