"""Verification of a rule set: every instance of every rule is run."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import attrs
import torch

from rewrite_engine.dsl import checked
from rewrite_engine.errors import Diagnostic, Note
from rewrite_engine.lowering.concrete_left import Alternative
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.torch_warnings import heard
from rewrite_engine.verification.building import build_case
from rewrite_engine.verification.cases import Case
from rewrite_engine.verification.choices import Choice, Unsuitable
from rewrite_engine.verification.examples import example_cases, with_examples
from rewrite_engine.verification.guards import GuardFindings, guard_coverage
from rewrite_engine.verification.missing import missing_inputs, no_instance
from rewrite_engine.verification.operands import is_ambiguous
from rewrite_engine.verification.plans import first_choices, spread, variations
from rewrite_engine.verification.programs import program_of
from rewrite_engine.verification.report import RuleVerification, Verification
from rewrite_engine.verification.samples import RANDOM
from rewrite_engine.verification.shrink import shrunk
from rewrite_engine.verification.spellings import calls_of
from rewrite_engine.verification.subject import Subject
from rewrite_engine.verification.trials import (
    Counterexample,
    Outcome,
    kinds_for,
    try_case,
)

_NOISY = "torch._subclasses.fake_tensor"

_MOST_WRONG = 3
"""Counterexamples of one rule, after which it is left."""


def verify(
    rules: RuleSet,
    *,
    trials: int = 200,
    most_instances: int | None = None,
    seed: int = 0,
) -> Verification:
    """Run every instance of every rule before and after the engine has rewritten it.

    Each instance runs on all kinds of values, in one set of types, shapes and literals;
    then up to `trials` variations of them a rule are run as well, and each guard is
    dropped in turn; with 0, neither is. `most_instances` runs that many instances of a
    rule, chosen from all over it. See `RuleVerification` for what is counted.
    """
    if not isinstance(rules, RuleSet):
        raise TypeError(f"expected a RuleSet, got {type(rules).__name__}")
    start = time.perf_counter()
    with quiet():
        found = tuple(
            heard(partial(_verify, rule, rules, trials, most_instances, seed))
            for rule in rules.file.rules
        )
    return Verification(found, time.perf_counter() - start)


@contextmanager
def quiet() -> Iterator[None]:
    """On one thread, which is faster for small tensors, and without torch's warnings
    and logs about odd arguments, which are tried on purpose.
    """
    log, threads = logging.getLogger(_NOISY), torch.get_num_threads()
    level = log.level
    log.setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        torch.set_num_threads(threads)


def _verify(
    rule: checked.Rule, rules: RuleSet, trials: int, most: int | None, seed: int
) -> RuleVerification:
    subject = with_examples(Subject.of(rule), rules.tests)
    instances = subject.compiled.instances(None if most is None else 4 * most)
    usual = [e for e in instances if not is_ambiguous(e.left, calls_of(e))]
    usual = list(spread(usual, most))
    session = _Session(subject, seed, rules.tests, usual)
    session.run(trials)
    wrong = [shrunk(subject, found) for found in session.wrong[:1]]
    # A rule that is wrong as it is, or never fires, needs no guard to be wrong.
    is_sound = session.run_instances and not wrong
    guards = (
        guard_coverage(subject, instances, rules, seed, is_dropped=trials > 0)
        if is_sound
        else GuardFindings()
    )
    possible = {each for instance in usual for each in instance.taken}
    missing = [missing_inputs(subject, session.missing)] if session.missing else []
    if not instances:
        missing = [no_instance(rule)]
    return RuleVerification(
        rule.name,
        len(session.instances),
        session.run_instances,
        session.trials,
        session.fired,
        session.unsuitable,
        sum(options for _, options in {(a.place, a.options) for a in possible}),
        len(session.taken),
        session.compared,
        guards.coverage,
        (*(_differing(rule, found) for found in wrong), *missing, *guards.diagnostics),
        tuple(program_of(found, rules, rule) for found in wrong),
    )


def _differing(rule: checked.Rule, found: Counterexample) -> Diagnostic:
    message = f"the two sides of `{rule.name}` differ"
    notes = tuple(Note(difference) for difference in found.differences[:3])
    return Diagnostic("E601", message, rule.name_span, rule.source, notes)


@attrs.define(eq=False)
class _Session:
    """The trials of one rule."""

    subject: Subject
    seed: int
    tests: Sequence[checked.Test]
    instances: Sequence[Instance]
    run_instances: int = 0
    trials: int = 0
    fired: int = 0
    compared: int = 0
    taken: set[Alternative] = attrs.field(factory=set)
    unsuitable: int = 0
    wrong: list[Counterexample] = attrs.field(factory=list)
    missing: list[tuple[Instance, str]] = attrs.field(factory=list)
    """Instances that never fired, and why not."""

    def run(self, trials: int) -> None:
        """Every instance, then its share of the variations."""
        bases = []
        for instance in self.instances:
            if len(self.wrong) >= _MOST_WRONG:
                return
            if (base := self._base(instance)) is not None:
                bases.append((instance, base))
        share = -(-trials // max(1, len(bases)))
        for index, (instance, base) in enumerate(bases):
            for number, choice in self._share(index, share, instance, base):
                if len(self.wrong) >= _MOST_WRONG:
                    return
                self._try(instance, choice, self._two_kinds(number))

    def _base(self, instance: Instance) -> Choice | None:
        """A choice with which an instance fires, having tried all kinds of values."""
        reason = "nothing could be chosen"
        for choice in first_choices(self.subject, instance):
            outcome = self._try(instance, choice, None)
            if isinstance(outcome, str):
                reason = outcome
                continue
            if outcome.fired and (outcome.compared or not outcome.claimed):
                self._count(instance)
                return choice
            reason = "; ".join(outcome.refusals) or "the rule does not fire"
            if outcome.fired:
                reason = "results are never within the range of numbers"
        if any(self._fires(case) for case in example_cases(self.tests, instance)):
            self._count(instance)
        else:
            self.missing.append((instance, reason))
        return None

    def _count(self, instance: Instance) -> None:
        self.run_instances += 1
        self.taken |= instance.taken

    def _fires(self, example: Case) -> bool:
        """Whether the rule fires in a test, where it needs what is around a match."""
        claimed = self.subject.rule.when is None
        return self._judged(attrs.evolve(example, claimed=claimed), None).fired

    def _share(
        self, index: int, share: int, instance: Instance, base: Choice
    ) -> Iterator[tuple[int, Choice]]:
        """Some of the variations; neighbouring instances take different ones."""
        everything = variations(self.subject, instance, base)
        for i in range(min(share, len(everything))):
            number = index * share + i
            yield number, everything[number % len(everything)]

    def _two_kinds(self, number: int) -> tuple[str, str]:
        others = kinds_for(self.subject)[1:]
        return RANDOM, others[number % len(others)]

    def _try(
        self, instance: Instance, choice: Choice, kinds: tuple[str, ...] | None
    ) -> Outcome | str:
        try:
            case = build_case(self.subject, instance, choice)
        except Unsuitable as reason:
            self.unsuitable += 1
            return str(reason)
        return self._judged(case, kinds)

    def _judged(self, case: Case, kinds: tuple[str, ...] | None) -> Outcome:
        self.trials += 1
        outcome = try_case(self.subject, case, self.seed, kinds)
        self.fired += outcome.fired
        self.compared += outcome.compared
        if outcome.counterexample is not None:
            self.wrong.append(outcome.counterexample)
        return outcome
