"""Whether guards matter: without one of them, some check should fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import attrs

from rewrite_engine.dsl import checked
from rewrite_engine.dsl.checked import RuleFile
from rewrite_engine.errors import Diagnostic, Note, RuleError
from rewrite_engine.lowering.guards import names_bound
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.rule_tests import run_test
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.building import build_case
from rewrite_engine.verification.cases import Case
from rewrite_engine.verification.choices import Choice, Unsuitable
from rewrite_engine.verification.examples import with_examples
from rewrite_engine.verification.plans import first_choices, spread, variations
from rewrite_engine.verification.report import GuardCoverage
from rewrite_engine.verification.samples import RANDOM
from rewrite_engine.verification.subject import Subject
from rewrite_engine.verification.trials import kinds_for, try_case

_INSTANCES: Final = 8
_CASES: Final = 120
"""How many instances, and cases of them, are tried to find one that needs a guard."""


@attrs.frozen
class GuardFindings:
    """The coverage of a rule's guards, and a warning for each that never mattered."""

    coverage: tuple[GuardCoverage, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


def guard_coverage(
    subject: Subject,
    instances: Sequence[Instance],
    rules: RuleSet,
    seed: int,
    *,
    is_dropped: bool,
) -> GuardFindings:
    """The answers of guards and, if `is_dropped`, what each of them is good for: it is
    dropped, and some check must fail. Tests beside the rules are checks, too.

    `instances` are some of the rule's, from all over it.
    """
    if not is_dropped:
        return GuardFindings(tuple(_coverage(subject, g) for g in subject.rule.guards))
    coverage, diagnostics = [], []
    functions = [each for each in instances if each.calls_functions] or instances
    chosen = spread(functions, _INSTANCES)
    for guard in subject.rule.guards:
        matters = _matters(subject, chosen, guard, rules, seed)
        coverage.append(_coverage(subject, guard, matters=matters))
        if not matters:
            diagnostics.append(_warning(subject.rule, guard))
    return GuardFindings(tuple(coverage), tuple(diagnostics))


def _coverage(
    subject: Subject, guard: checked.Guard, *, matters: bool | None = None
) -> GuardCoverage:
    answers = frozenset(subject.decided.get(guard.text, ()))
    return GuardCoverage(guard.text, answers, matters)


def _warning(rule: checked.Rule, guard: checked.Guard) -> Diagnostic:
    message = f"no check of this rule needs the guard `{guard.text}`"
    tried = "all trials agree without it, on graphs with recorded types and without"
    notes = (Note(f"{tried}, and all tests pass"),)
    hint = "remove it, or add a test that fails without it"
    return Diagnostic("W602", message, guard.span, rule.source, notes, hint)


def _matters(
    subject: Subject,
    chosen: Sequence[Instance],
    guard: checked.Guard,
    rules: RuleSet,
    seed: int,
) -> bool:
    if names_bound(guard.expr):
        return True  # it gives dimensions their names
    try:
        mutant = Subject.of(subject.rule, without=guard)
    except RuleError:
        return True
    if _fails_a_test(subject.rule, guard, rules):
        return True
    mutant = with_examples(mutant, rules.tests)
    cases = chain(_cases(mutant, chosen), _cases_without(mutant, chosen))
    return any(_fails(mutant, case, i, seed) for i, case in enumerate(cases))


def _fails_a_test(rule: checked.Rule, guard: checked.Guard, rules: RuleSet) -> bool:
    kept = tuple(other for other in rule.guards if other is not guard)
    mutated = tuple(
        attrs.evolve(each, guards=kept) if each.name == rule.name else each
        for each in rules.file.rules
    )
    mutant = RuleSet(rules.name, RuleFile(mutated, rules.tests))
    return any(
        run_test(test, rules).passed and not run_test(test, mutant).passed
        for test in rules.tests
    )


def _fails(mutant: Subject, case: Case, number: int, seed: int) -> bool:
    """Whether the rule is wrong for a case, or its right side cannot be built."""
    kinds = kinds_for(mutant)
    outcome = try_case(mutant, case, seed, (RANDOM, kinds[number % len(kinds)]))
    is_refused = bool(outcome.refusals) and case.choice.exposed is None
    return outcome.counterexample is not None or is_refused


def _cases_without(mutant: Subject, known: Sequence[Instance]) -> Iterator[Case]:
    """Cases of instances that the guard alone made impossible."""
    if len(known) < _INSTANCES:  # of a larger rule, others are as good
        yield from _cases(mutant, mutant.compiled.instances(_INSTANCES))


def _cases(mutant: Subject, chosen: Sequence[Instance]) -> Iterator[Case]:
    """Cases of instances, with and without recorded values."""
    for number, instance in enumerate(chosen):
        for choice in first_choices(mutant, instance):
            try:
                case = build_case(mutant, instance, choice)
            except Unsuitable:
                continue
            yield case
            # Neighbouring instances take different variations.
            more = variations(mutant, instance, choice)[number :: len(chosen)]
            yield from _built(mutant, instance, more[: _CASES // len(chosen)])
            break


def _built(
    mutant: Subject, instance: Instance, choices: Sequence[Choice]
) -> Iterator[Case]:
    for choice in choices:
        for recorded in (choice, attrs.evolve(choice, recorded=False, dynamic=False)):
            try:
                yield build_case(mutant, instance, recorded)
            except Unsuitable:
                break
