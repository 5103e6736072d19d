"""A failure anywhere in a run, at any call of the engine, leaves everything as it was;
so does one between any two lines of what edits graphs.

`pytest -m long tests/rewriting/test_failures_anywhere.py` fails at every call.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from rewrite_engine import edit, engine, load, loads, rewriting
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.noise import Noise
from rewrite_engine.verification.planting import Planter
from tests.graphs import snapshot
from tests.rewriting import test_plain

FUSE = load("qat_fuse")
PLANTED = loads(
    """
    rule merge inexact { y = neg(x) z = mul(y, $k) => z' = mul(x, -$k) }
    rule relu_twice exact { z = relu(relu(x)) => z' = relu(x) }
    rule folded inexact {
      z = mul(x, mul(w, $k))  where w is const
    => param wk = w * $k  z' = mul(x, wk) }
    rule kept once exact { y = sigmoid(x) z = mul(x, y) => keep y  z' = mul(y, x) }
    rule random once exact {
      z = dropout(x, $p, true)
    => z' = dropout(x, $p, true, ..z) }
    """
)
BALANCE = load("cross_layer")
REPEATED = loads(
    f"""
    rule sum {{ {test_plain.SUM} }}
    rule negated {{ {test_plain.NEGATED} }}
    rule viewed {{ {test_plain.VIEWED} }}
    """
)
ENGINE: Final = str(Path(rewriting.__file__).parent)
TRACED: Final = (ENGINE, str(Path(fx.__file__).parent / "graph_module.py"))
EDITING: Final = (str(edit.__file__), "<matching program>")
"""What edits graphs: the second is generated code."""
ERRORS: Final = (KeyboardInterrupt, MemoryError, SystemExit)


class Failure:
    """Raises at the n-th call of a function of the engine, in the midst of a run; or,
    with `lines`, at the n-th line of what edits graphs.
    """

    def __init__(
        self, step: int | None, error: type[BaseException], *, lines: bool = False
    ) -> None:
        self.steps = 0
        self._step = step
        self._error = error
        self._lines = lines

    def __enter__(self) -> Failure:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        # Python ignores what is raised while a generator is closed.
        is_generator = code.co_flags & inspect.CO_GENERATOR
        traced = EDITING if self._lines else TRACED
        if is_generator or not code.co_filename.startswith(traced):
            return None
        if self._lines:
            return self._trace_line
        self._count()
        return None

    def _trace_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self._count()
        return self._trace_line

    def _count(self) -> None:
        self.steps += 1
        if self.steps == self._step:
            sys.settrace(self._before)
            raise self._error("injected")


def conv_bn() -> ExportedProgram:
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)),
    )
    return torch.export.export(model.train(), (torch.randn(2, 3, 8, 8),))


def layers() -> ExportedProgram:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    return torch.export.export(model, (torch.randn(2, 3),))


def pairs() -> Iterator[tuple[Callable[[], Any], RuleSet]]:
    """50 models that are made anew, and the rules that are applied to them."""
    for make, rules in ((conv_bn, FUSE), (layers, BALANCE)):
        yield make, rules
        yield lambda make=make: make().module(), rules
    planters = [Planter(PLANTED, rule.name) for rule in PLANTED]
    noises = (Noise(), Noise(writes=3, random=1))
    made = 0
    for seed, planter, noise in itertools.product(range(99), planters, noises):
        planted = planter.plant(seed, noise)
        if planted is not None and made < 46:
            made += 1
            yield lambda planted=planted: copy.deepcopy(planted.module), PLANTED


def fail_at(
    model: Any, rules: RuleSet, steps: range, error: type, *, lines: bool = False
) -> int:
    """How many failures there were; each must have left the model alone."""
    before, failed = snapshot(model), 0
    for step in steps:
        failure = Failure(step, error, lines=lines)
        with pytest.raises(error, match="injected"), failure:
            engine.apply(model, rules)
        assert snapshot(model) == before, f"failed at step {step}"
        failed += 1
    return failed


@pytest.mark.figure("R8")
@pytest.mark.parametrize(
    "most", [42, pytest.param(None, marks=pytest.mark.long)], ids=["some", "every"]
)
def test_a_failure_at_any_call_leaves_no_trace(
    most: int | None, measured: Callable[..., None]
) -> None:
    failed = rewritten = count = 0
    for (make, rules), error in zip(pairs(), itertools.cycle(ERRORS), strict=False):
        engine.apply(make(), rules)
        rewritten += engine.apply(make(), rules).modified  # caches are full now
        model = make()
        with Failure(None, error) as counted:
            engine.apply(model, rules)
        calls = counted.steps
        step = 1 if most is None else max(1, calls // most)
        failed += fail_at(make(), rules, range(1, calls + 1, step), error)
        count += 1
    assert count == 50 and rewritten > 25 and failed >= 2_000
    measured("R8", failures=failed, pairs=count, rewritten_otherwise=rewritten)


def repeated() -> fx.GraphModule:
    """A graph of matches that generated code rewrites: they are known from another."""
    kinds = (
        test_plain.of_a_computed_value,
        test_plain.twice,
        test_plain.seen_otherwise,
    )
    return test_plain.places(*kinds)


@pytest.mark.figure("R8")
def test_a_failure_between_two_lines_of_an_edit_leaves_no_trace(
    measured: Callable[..., None],
) -> None:
    engine.apply(repeated(), REPEATED)
    with Failure(None, KeyboardInterrupt, lines=True) as counted:
        assert engine.apply(repeated(), REPEATED).report.matches == 4
    steps = range(1, counted.steps + 1)
    failed = fail_at(repeated(), REPEATED, steps, KeyboardInterrupt, lines=True)
    measured("R8", failures_between_lines=failed)
