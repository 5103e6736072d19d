"""A graph in which an instance of a rule was planted, and what must hold of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import fx, nn

from rewrite_engine import equivalence
from rewrite_engine.equivalence import Run
from rewrite_engine.graph_text import graph_text
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.rounding import saturates, step_slack


@attrs.frozen(eq=False)
class Planted:
    """A graph with an instance of a rule in it, and inputs for it."""

    rules: RuleSet
    rule: str
    module: fx.GraphModule = attrs.field(repr=False)
    inputs: tuple[torch.Tensor, ...] = attrs.field(repr=False)
    tolerance: float | None
    """What the rule claims for this instance; None if it claims nothing."""
    observers: tuple[str, ...] = ()
    """Paths of modules that only record what they see, which a rule may change."""

    def check(self) -> int:
        """Apply the rules to a copy and assert that it is right; how often they fired.

        The copy is sound, its recorded values are those of a real run, it computes what
        the original does, input writes and random numbers included, as exactly as the
        rule claims, no tensor that it had was written, and a second application changes
        nothing.
        """
        module = copy.deepcopy(self.module)
        before, text = dict(_state(module)), graph_text(module)
        values = {name: tensor.detach().clone() for name, tensor in before.items()}
        result = self.rules.apply(module)
        module.graph.lint()
        after = dict(_state(module))
        is_other = any(after.get(name) is not t for name, t in before.items())
        is_modified = is_other or graph_text(module) != text
        _insist(result.modified == is_modified, "`modified` is wrong")
        assert_recorded(module, self.inputs)
        written = [n for n, t in before.items() if not _same_bits(t, values[n])]
        _insist(not written, f"written in place: {written}")
        if self.tolerance is not None:
            _insist(not (found := self._differences(module)), "\n".join(found))
        if not self.rules[self.rule].once:  # such a rule may match what it builds
            text = graph_text(module)
            again = self.rules.apply(module)
            is_final = not again.modified and graph_text(module) == text
            _insist(is_final, "a second application changes the graph again")
        return sum(r.matches for r in result.report.rules if r.name == self.rule)

    def _differences(self, after: fx.GraphModule) -> list[str]:
        """What is not as it was, beyond the tolerance and one step of quantizers."""
        expected, actual = self._run(self.module), self._run(after)

        def beyond(slack: Mapping[str, float]) -> list[str]:
            tolerance = self.tolerance
            return equivalence.differences(
                expected, actual, rtol=tolerance, gradient_rtol=tolerance, slack=slack
            )

        found = beyond({})
        if not found or self.tolerance == 0:
            return found
        if any(saturates(module, self.inputs) for module in (self.module, after)):
            return []
        return beyond(step_slack(self.module, expected, self._run))

    def _run(self, module: fx.GraphModule) -> Run:
        done = equivalence.run(module, self.inputs, check_gradients=False)
        seen = tuple(f"buffer {path}." for path in self.observers)
        state = {n: v for n, v in done.state.items() if not n.startswith(seen)}
        changed = done.changed & state.keys()
        return attrs.evolve(done, state=state, changed=changed)


def assert_recorded(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Assert that the values that nodes record have the types of a real run."""
    faults: list[str] = []

    class Checker(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            recorded = n.meta.get("val")
            if isinstance(recorded, torch.Tensor) and isinstance(value, torch.Tensor):
                expected = (value.dtype, value.shape, _used_strides(value))
                found = (recorded.dtype, recorded.shape, _used_strides(recorded))
                if found != expected:
                    faults.append(f"{n}: {found} recorded, {expected} run")
            return value

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        Checker(copy.deepcopy(module)).run(*(tensor.clone() for tensor in inputs))
    _insist(not faults, "\n".join(faults))


def _insist(holds: bool, message: str) -> None:
    # No `assert`: users run these checks under `python -O`, too.
    if not holds:
        raise AssertionError(message)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _used_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    if tensor.numel() == 0:
        return ()
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(stride for size, stride in pairs if size > 1)


def _state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
