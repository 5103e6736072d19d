"""Runs the `test` blocks of rule files."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._pytree import tree_leaves

from rewrite_engine import torch_ops
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Test
from rewrite_engine.errors import RewriteError, first_line, place
from rewrite_engine.explaining.explain import explain
from rewrite_engine.lowering.example import build_example
from rewrite_engine.rewriting.run import Result
from rewrite_engine.ruleset import RuleSet


@attrs.frozen
class TestOutcome:
    """One `test` block: `message` says what was expected and what happened, `place`
    where the block stands, `file.rules:3:1`.
    """

    title: str
    passed: bool
    message: str
    place: str

    __test__ = False  # pytest must not collect it


def run_tests(rules: RuleSet) -> tuple[TestOutcome, ...]:
    """Run every test of a rule set with all of its rules, on seeded random inputs."""
    return tuple(run_test(test, rules) for test in rules.tests)


def own_tests(rules: RuleSet, path: Path) -> tuple[Test, ...]:
    """The tests of the file that rules were loaded from; those of files that it uses
    expect the rules of these alone.
    """
    file = path.resolve()
    return tuple(t for t in rules.tests if Path(t.source.name).resolve() == file)


def run_test(test: Test, rules: RuleSet) -> TestOutcome:
    """Build the test's graph, apply the rules, and check every expectation."""
    where = place(test.source, test.span)
    faults: list[str] = []
    try:
        before, inputs = example_of(test)
        result = rules.apply(copy.deepcopy(before))
        for fault in _faults(test, rules, result, before, inputs):
            faults.append(fault)  # kept if a later one raises
    except (DoesNotRun, RewriteError) as error:
        faults.append(str(error))
    message = "; ".join(faults) if faults else "passed"
    return TestOutcome(test.title, not faults, message, where)


class DoesNotRun(Exception):  # noqa: N818 - an outcome, not an error
    """Torch does not run a graph, for the reason that the message gives."""


def example_of(test: Test) -> tuple[fx.GraphModule, list[torch.Tensor]]:
    """The graph of a test, with recorded values, and inputs for it.

    Raises: DoesNotRun
    """
    torch.manual_seed(0)
    with _running("its graph"):
        inputs = [_sample(given.type) for given in test.given if given.role == "input"]
        module = _module(test)
        _record_values(module, inputs)
    return module, inputs


def examples_of(tests: Iterable[Test]) -> Iterator[fx.GraphModule]:
    """The graphs of those tests that run."""
    for test in tests:
        try:
            module, _ = example_of(test)
        except DoesNotRun:
            continue
        yield module


@contextmanager
def _running(what: str) -> Iterator[None]:
    """Torch raises whatever the calls of a graph lead it to, assertions included."""
    try:
        yield
    except Exception as error:
        raise DoesNotRun(f"{what} does not run: {first_line(error)}") from error


def _module(test: Test) -> fx.GraphModule:
    module = torch.nn.Module()
    for given in test.given:
        if given.role == "param":
            module.register_parameter(
                given.name, torch.nn.Parameter(_sample(given.type))
            )
        elif given.role == "buffer":
            module.register_buffer(given.name, _sample(given.type))
    return fx.GraphModule(module, build_example(test), "Example")


def _record_values(module: fx.GraphModule, inputs: list[torch.Tensor]) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    FakeTensorProp(module, mode).propagate(*inputs)


def _sample(type: nodes.TensorType) -> torch.Tensor:
    (name,), dims = type.dtypes, type.shape or ()
    dtype = torch_ops.dtype_of(name)
    shape = [dim.value for dim in dims if isinstance(dim, nodes.Constant)]
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(0, 2 if dtype is torch.bool else 5, shape).to(dtype)


def _faults(
    test: Test,
    rules: RuleSet,
    result: Result,
    before: fx.GraphModule,
    inputs: list[torch.Tensor],
) -> Iterator[str]:
    for expected in test.expect:
        match expected:
            case nodes.ExpectCount(rule, count):
                found = _matches(result, rule)
                if found != count:
                    why = "; ".join(_reasons(rules, rule, result, before, count))
                    reason = f" ({why})" if why else ""
                    yield f"expected {rule} * {count}, found {found}{reason}"
            case nodes.ExpectRefusal(rule, reason):
                yield from _refusal_faults(result, rule, reason)
            case nodes.ExpectEqual(tolerance):
                after = result.graph_module
                fired = _unexpected(test, result)
                for fault in _value_faults(before, after, inputs, tolerance or 0.0):
                    yield f"{fault}{fired}"


def _unexpected(test: Test, result: Result) -> str:
    """The rules that fired and of which the test expects nothing."""
    named = {e.rule for e in test.expect if isinstance(e, nodes.ExpectCount)}
    fired = [
        f"{rule.name} * {rule.matches}"
        for rule in result.report.rules
        if rule.matches and rule.name not in named
    ]
    return f" (also fired: {', '.join(fired)})" if fired else ""


def _matches(result: Result, rule: str) -> int:
    return sum(r.matches for r in result.report.rules if r.name == rule)


def _reasons(
    rules: RuleSet, rule: str, result: Result, before: fx.GraphModule, count: int
) -> list[str]:
    """Why a rule did not match as often as it should: what was refused, or else what
    stopped it where it came nearest.
    """
    refused = [str(r) for r in result.report.refusals if r.rule == rule]
    if refused or _matches(result, rule) > count:
        return refused
    explained = explain(rules.program, (rules[rule],), before)
    return [
        f"nearest at '{miss.anchor.name}': {miss.first.message},"
        f" {place(miss.rule.source, miss.first.span)}"
        for miss in explained.near_misses[:1]
    ]


def _refusal_faults(result: Result, rule: str, reason: str) -> Iterator[str]:
    given = [r.reason for r in result.report.refusals if r.rule == rule]
    if not any(reason in text for text in given):
        yield f"expected {rule} to be refused with '{reason}', found {given}"


def _value_faults(
    before: fx.GraphModule,
    after: fx.GraphModule,
    inputs: list[torch.Tensor],
    tolerance: float,
) -> Iterator[str]:
    with _running("its graph"):
        expected = _outputs(before, inputs)
    with _running("the rewritten graph"):
        found = _outputs(after, inputs)
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        difference = largest_difference(a, b)
        if math.isnan(difference) or difference > tolerance:
            yield f"output {index} differs by {difference:.3g}, more than {tolerance:g}"


def _outputs(module: fx.GraphModule, inputs: list[torch.Tensor]) -> list[Any]:
    torch.manual_seed(0)
    return tree_leaves(module(*(tensor.clone() for tensor in inputs)))


def largest_difference(expected: Any, found: Any) -> float:
    """The largest difference, relative to the largest magnitude of what is expected.

    Not a number is equal to itself; another shape or dtype differs infinitely, as does
    what is no tensor and not equal.
    """
    if not (isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor)):
        return 0.0 if expected == found else math.inf
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return math.inf
    if torch.equal(expected, found) or expected.numel() == 0:
        return 0.0
    wide = expected.to(torch.complex128 if expected.is_complex() else torch.float64)
    gap = (wide - found.to(wide.dtype)).abs()
    gap[expected.isnan() & found.isnan()] = 0.0
    scale = wide.abs().nan_to_num().max().item()
    return gap.max().item() / (scale or 1.0)
