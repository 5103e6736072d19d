"""Sketches of many rules as one tree: a beginning that they share is there once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import attrs

from rewrite_engine.matching.sketches import Position, Sketch, Test


@attrs.define(eq=False, slots=False)
class Branch:
    """Where the tests on the way here hold: the rules that ask no more, and what the
    others ask next, by position and kind of test.

    All tests that hold lead on: rules that look at other positions are found, too.
    """

    rules: list[int] = attrs.field(factory=list)
    tests: dict[tuple[Position, type[Test]], dict[Test, Branch]] = attrs.field(
        factory=dict
    )

    def insert(self, sketch: Sketch, rule: int) -> None:
        """Lead to a rule where all tests of a sketch hold."""
        branch = self
        for test in sketch:
            tests = branch.tests.setdefault((test.position, type(test)), {})
            branch = tests.setdefault(test, Branch())
        branch.rules.append(rule)

    @cached_property
    def rules_below(self) -> frozenset[int]:
        """Every rule that some way from here leads to, once all are inserted."""
        below = (b.rules_below for tests in self.tests.values() for b in tests.values())
        return frozenset(self.rules).union(*below)


def tree_of(rules: Mapping[int, Iterable[Sketch]]) -> Branch:
    """The tree of the sketches of rules, which are numbers here."""
    root = Branch()
    for rule, sketches in rules.items():
        for sketch in sketches:
            root.insert(sketch, rule)
    return root
