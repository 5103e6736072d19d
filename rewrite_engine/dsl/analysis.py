"""What rules that are right do to each other: warnings of `check`, not of loading."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from rewrite_engine.dsl.checked import Rule, RuleFile
from rewrite_engine.dsl.overlaps import overlaps
from rewrite_engine.dsl.termination import endless
from rewrite_engine.errors import Diagnostic


def analyse(file: RuleFile) -> tuple[Diagnostic, ...]:
    """Overlaps, shadowed rules and rules that may not end, of each phase."""
    found = [d for rules in _phases(file) for d in (*overlaps(rules), *endless(rules))]
    return tuple(dict.fromkeys(found))


def _phases(file: RuleFile) -> Iterator[tuple[Rule, ...]]:
    named = {rule.name: rule for rule in file.rules}
    if not file.phases:
        yield file.rules
    for phase in file.phases:
        rules = (named[name] for name in phase.rules)
        yield tuple(attrs.evolve(r, once=r.once or phase.once) for r in rules)
