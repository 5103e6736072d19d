"""Whether guards matter: without one of them, some check should fail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import attrs

from rewrite_engine.dsl import checked
from rewrite_engine.dsl.checked import RuleFile
from rewrite_engine.errors import Diagnostic, Note, RuleError
from rewrite_engine.lowering.guards import names_bound
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.rule_tests import run_test
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.cases import Case, Choice, Unsuitable, build_case
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


def guard_coverage(subject: Subject, rules: RuleSet, seed: int) -> GuardFindings:
    """Drop each guard in turn; the tests beside the rules count as checks, too."""
    coverage, diagnostics = [], []
    for guard in subject.rule.guards:
        matters = _matters(subject, guard, rules, seed)
        answers = frozenset(subject.decided.get(guard.text, ()))
        coverage.append(GuardCoverage(guard.text, answers, matters))
        if not matters:
            diagnostics.append(_warning(subject.rule, guard))
    return GuardFindings(tuple(coverage), tuple(diagnostics))


def _warning(rule: checked.Rule, guard: checked.Guard) -> Diagnostic:
    message = f"the guard `{guard.text}` never matters"
    notes = (Note("without it, no check of this rule fails"),)
    hint = "remove it, or add a test that is refused because of it"
    return Diagnostic("W602", message, guard.span, rule.source, notes, hint)


def _matters(subject: Subject, guard: checked.Guard, rules: RuleSet, seed: int) -> bool:
    if names_bound(guard.expr):
        return True  # it gives dimensions their names
    try:
        mutant = Subject.of(subject.rule, without=guard)
    except RuleError:
        return True
    return _fails_a_test(subject.rule, guard, rules) or any(
        _fails(mutant, case, number, seed)
        for number, case in enumerate(_cases(mutant, rules))
    )


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
    return outcome.counterexample is not None or bool(outcome.refusals)


def _cases(mutant: Subject, rules: RuleSet) -> Iterator[Case]:
    """Cases of instances from all over the rule, and without recorded values."""
    mutant = with_examples(mutant, rules.tests)
    chosen = spread(mutant.compiled.instances(), _INSTANCES)
    for instance in chosen:
        for choice in first_choices(mutant, instance):
            try:
                case = build_case(mutant, instance, choice)
            except Unsuitable:
                continue
            yield case
            more = variations(mutant, instance, choice)
            yield from _built(mutant, instance, islice(more, _CASES // len(chosen)))
            break


def _built(
    mutant: Subject, instance: Instance, choices: Iterator[Choice]
) -> Iterator[Case]:
    for choice in choices:
        for recorded in (choice, attrs.evolve(choice, recorded=False, dynamic=False)):
            try:
                yield build_case(mutant, instance, recorded)
            except Unsuitable:
                break
