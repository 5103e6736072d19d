"""What rules that are right do to each other: warnings of `check`, not of loading."""

from __future__ import annotations

from rewrite_engine.dsl.checked import RuleFile
from rewrite_engine.dsl.overlaps import overlaps
from rewrite_engine.dsl.termination import endless
from rewrite_engine.errors import Diagnostic


def analyse(file: RuleFile) -> tuple[Diagnostic, ...]:
    """Overlaps, shadowed rules and rules that may not end, of each phase."""
    phases = file.rules_together()
    found = [d for rules in phases for d in (*overlaps(rules), *endless(rules))]
    return tuple(dict.fromkeys(found))
