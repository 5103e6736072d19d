"""One case tried: the engine rewrites it, and both graphs run on the same values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import fx
from torch.utils import _pytree as pytree

from rewrite_engine import equivalence
from rewrite_engine.equivalence import TOLERANCES, Run
from rewrite_engine.errors import RewriteError, first_line
from rewrite_engine.rewriting.driver import Limits
from rewrite_engine.rewriting.run import run as rewrite
from rewrite_engine.verification.cases import Case
from rewrite_engine.verification.rounding import quantizes, saturates, step_slack
from rewrite_engine.verification.samples import ADVERSARIAL, NAN, RANDOM, SPECIAL
from rewrite_engine.verification.slack import larger, sensitivity
from rewrite_engine.verification.subject import Subject

_SLACK = 8.0
"""How many times its own sensitivity an inexact result may be off by."""

_NUDGES = 16
"""How often inputs are changed to measure it: a relu jumps only where it is near 0, in
half precision not every time.
"""

_OTHER_BATCH = 7


@attrs.frozen(eq=False)
class Counterexample:
    """Values on which the two sides of a rule differ, and how."""

    case: Case
    kind: str
    values: Mapping[str, torch.Tensor]
    differences: tuple[str, ...]
    tolerance: float
    gradients: bool
    """Whether the left side has gradients."""

    @property
    def what(self) -> str:
        """What differs first: an output, a gradient, or what is written."""
        return self.differences[0].partition(":")[0]


@attrs.frozen(eq=False)
class Outcome:
    """What came of a case: fired and equal, fired and not, or not fired and why."""

    fired: bool
    refusals: tuple[str, ...] = ()
    compared: bool = False
    """Whether values were compared."""
    claimed: bool = True
    """Whether the rule claims anything of the case."""
    counterexample: Counterexample | None = None


def try_case(
    subject: Subject, case: Case, seed: int, kinds: Sequence[str] | None
) -> Outcome:
    """Apply the rule to a case and compare both graphs on kinds of values.

    None stands for all kinds that the rule must take.
    """
    kinds = kinds_for(subject) if kinds is None else kinds
    pair, compared = None, False
    for kind in kinds:
        # Values were recorded for another batch size, where it is dynamic.
        values = case.values(kind, seed, _OTHER_BATCH)
        if pair is None or subject.reads_state:
            pair = rewritten(subject, case, values)
        if not isinstance(pair, Pair):
            return Outcome(False, pair)
        found = pair.counterexample(kind, values)
        compared |= bool(pair.compared)
        if found is not None:
            return Outcome(fired=True, compared=True, counterexample=found)
    return Outcome(fired=True, compared=compared, claimed=case.claimed)


def kinds_for(subject: Subject) -> tuple[str, ...]:
    """The kinds of values that a rule must take."""
    last = SPECIAL if subject.rule.tolerance == 0 else (NAN,)
    return (RANDOM, *ADVERSARIAL, *last)


def rewritten(
    subject: Subject, case: Case, values: Mapping[str, torch.Tensor]
) -> Pair | tuple[str, ...]:
    """The case before and after the rule, or why the rule refused."""
    before, after = case.module(values), case.module(values)
    try:
        result = rewrite(
            [subject.program], after, recurse=False, guard=None, limits=Limits()
        )
    except RewriteError as error:
        return (str(error),)
    if not result.report.matches:
        return tuple(refusal.reason for refusal in result.report.refusals)
    tolerance = tolerance_of(subject.rule.tolerance, case)
    held = case.held(values)
    written = {
        path: tensor.detach().clone()
        for path, tensor in after.state_dict().items()
        if path in held and not torch.equal(tensor, held[path])
    }
    return Pair(case, before, after, tolerance, subject.reads_state, written)


def tolerance_of(claimed: float | None, case: Case) -> float:
    """What a rule's tolerance is for a case: never finer than its coarsest dtype."""
    if claimed == 0:
        return 0.0
    values = pytree.tree_leaves([node.meta.get("val") for node in case.graph.nodes])
    dtypes = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    dtypes |= {tensor.dtype for tensor in case.tensors.values()}
    coarsest = max((TOLERANCES.get(dtype, 0.0) for dtype in dtypes), default=0.0)
    return max(claimed or 0.0, coarsest, TOLERANCES[torch.float64])


@attrs.frozen(eq=False)
class Pair:
    """A graph before and after a rewrite, and how far they may differ.

    `folded`: the right side was computed from state, which has no gradients any more;
    inputs have, where the right side has any.
    `written`: the state that the rule replaced, as it is on the right side.
    """

    case: Case
    before: fx.GraphModule
    after: fx.GraphModule
    tolerance: float
    folded: bool
    written: Mapping[str, torch.Tensor]
    compared: list[str] = attrs.field(factory=list)
    """The kinds of values on which both were compared."""

    def counterexample(
        self, kind: str, values: Mapping[str, torch.Tensor]
    ) -> Counterexample | None:
        """The values, if outputs, gradients or what is written differ on them."""
        expected, gradients = self._expected(values)
        if not self._is_held(expected, kind, values):
            return None
        self.compared.append(kind)
        found = self._differences(values, expected, gradients)
        if not found:
            return None
        return Counterexample(self.case, kind, values, found, self.tolerance, gradients)

    def _is_held(
        self, expected: Run, kind: str, values: Mapping[str, torch.Tensor]
    ) -> bool:
        """Whether the rule must give these results."""
        if not self.case.claimed or not self.tolerance:
            return self.case.claimed
        if kind == NAN and quantizes(self.before.graph):
            return False  # no step is one for NaN
        inputs = self.case.inputs(values)
        beyond = saturates(self.before, inputs) or saturates(self.after, inputs)
        return _is_fair(expected, kind) and not beyond

    def _expected(self, values: Mapping[str, torch.Tensor]) -> tuple[Run, bool]:
        """What the left side gives, and whether it has gradients."""
        has_none = quantizes(self.before.graph)  # steps have none
        if has_none or self.case.choice.written:  # nor what is written after it is kept
            return self._run(self.before, values, gradients=False), False
        try:
            return self._run(self.before, values, gradients=True), True
        except RuntimeError:  # some operators have none
            return self._run(self.before, values, gradients=False), False

    def _run(
        self,
        module: fx.GraphModule,
        values: Mapping[str, torch.Tensor],
        *,
        gradients: bool,
        is_nudged: bool = False,
    ) -> Run:
        held = self.case.held(values)
        given = {**held, **(self.written if module is self.after else {})}
        for name, tensor in module.state_dict(keep_vars=True).items():
            tensor.grad = None
            if name in given:
                tensor.data.copy_(given[name])
        inputs = self.case.inputs(values)
        done = equivalence.run(
            module,
            inputs,
            check_gradients=gradients,
            in_place=True,
            is_nudged=is_nudged,
        )
        state = {n: v for n, v in done.state.items() if self._is_compared(n)}
        left = {n: v for n, v in done.gradients.items() if self._has_gradient(n)}
        return attrs.evolve(done, gradients=left, state=state)

    def _has_gradient(self, name: str) -> bool:
        return not self.folded or name.startswith("gradient of inputs")

    def _is_compared(self, buffer: str) -> bool:
        """Whether a buffer is meant to be as before: not if the rule wrote it, nor if
        it is what an observer has seen, which is what the rule may change.
        """
        path = buffer.removeprefix("buffer ")
        owner = self.case.modules.get(path.partition(".")[0])
        return path not in self.written and not (owner and owner.watches)

    def _differences(
        self, values: Mapping[str, torch.Tensor], expected: Run, gradients: bool
    ) -> tuple[str, ...]:
        try:
            actual = self._run(self.after, values, gradients=gradients)
        except Exception as error:  # whatever operators raise
            if gradients and self.folded:  # what was folded may have none
                expected = self._run(self.before, values, gradients=False)
                return self._differences(values, expected, gradients=False)
            raised = f"{type(error).__name__}: {first_line(error)}"
            return (f"the right side raises {raised}",)
        found = self._compare(expected, actual, {})
        if not self.tolerance:
            return tuple(found)
        slacks = self._slacks(values, expected, gradients=gradients)
        while found and (slack := next(slacks, None)) is not None:
            found = self._compare(expected, actual, slack)
        return tuple(found)

    def _slacks(
        self, values: Mapping[str, torch.Tensor], expected: Run, *, gradients: bool
    ) -> Iterator[dict[str, float]]:
        """More and more of what rounding alone may change: by steps of quantizers, then
        of the inputs.
        """

        def again(module: fx.GraphModule) -> Run:
            return self._run(module, values, gradients=gradients)

        slack = step_slack(self.before, expected, again)
        if slack:
            yield slack
        for seed in range(_NUDGES):
            moved = {k: equivalence.nudged(v, seed) for k, v in values.items()}
            nudged = self._run(self.before, moved, gradients=gradients, is_nudged=True)
            slack = larger(slack, sensitivity(expected, nudged, _SLACK))
            yield slack

    def _compare(
        self, expected: Run, actual: Run, slack: Mapping[str, float]
    ) -> list[str]:
        # Exact values may have gradients that are summed in another order.
        return equivalence.differences(
            expected,
            actual,
            rtol=self.tolerance,
            gradient_rtol=self.tolerance or None,
            slack=slack,
        )


def _is_fair(expected: Run, kind: str) -> bool:
    """Whether an inexact rule may be held to these results.

    Where the left side overflows, or swallows NaN, the right side may do otherwise.
    """
    tensors = [v for v in expected.outputs.values() if isinstance(v, torch.Tensor)]
    if kind == NAN:
        return all(bool(tensor.isnan().any()) for tensor in tensors)
    everything = [*tensors, *expected.gradients.values()]
    return all(bool(tensor.isfinite().all()) for tensor in everything)
