"""What became of a match is done again for equal ones.

A model repeats its layers. What a match becomes depends on its calls, on the literals
and types of what it binds, and not on which nodes these are: the first of equal matches
is built from the replacement graph, the others repeat what was made for it.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import Any, Final, NamedTuple

import attrs
from torch import fx

from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.constants import Store
from rewrite_engine.rewriting.outlines import Outline, Outliner, Reach, Unrepeatable
from rewrite_engine.rewriting.recipes import Recipe
from rewrite_engine.rewriting.state import State
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.rewriting.twins import Twin
from rewrite_engine.rewriting.values import ValueTypes


class EqualMatches:
    """What the matches of a run became, by all that it depended on.

    What depends on no dynamic size is put into `memory`, for other graphs.
    """

    def __init__(
        self,
        transaction: Transaction,
        state: State,
        types: ValueTypes,
        memory: dict[Any, _Memory],
    ) -> None:
        self._store = Store(transaction, state, types)
        self._facts = state.facts
        self._types = types
        self._outliner = Outliner(state.facts, types)
        self._known: dict[Hashable, _Known] = {}
        self._is_exported = state.is_exported
        self._memory = memory

    @cached_property
    def _shared(self) -> _Memory:
        """What is known from graphs that record values alike."""
        # An exported program takes fewer calls than a module with the same records.
        kept_for = self._types.convention, self._is_exported
        return self._memory.setdefault(kept_for, _Memory())

    def find(self, rule: CompiledRule, anchor: fx.Node) -> Subject | None:
        """The match that a search at this node would find first, if one with an equal
        outline is known.
        """
        for reach in self._shared.reaches.get(rule, ()):
            try:
                outline = self._outliner.at(rule, anchor, reach)
            except Unrepeatable:
                return None
            known = None if outline is None else self._recall(outline)
            if outline is not None and known is not None and known.twin is not None:
                return Subject(known.twin.match(outline.nodes), outline, known)
        return None

    def recall(self, match: Match) -> Subject:
        """A match, with what is known of equal ones."""
        try:
            outline = self._outliner.of(match) if match.rule.is_repeatable else None
        except Unrepeatable:
            outline = None
        return Subject(
            match, outline, None if outline is None else self._recall(outline)
        )

    def _recall(self, outline: Outline) -> _Known | None:
        return self._shared.known.get(outline.key) or self._known.get(outline.key)

    def repeat(self, subject: Subject, before: fx.Node) -> Built | None:
        """The nodes of an equal match again, on this one's operands.

        Raises: Refused, if the constants that it folds are none, or become inf or nan.
        """
        _, outline, known = subject
        if known is None or outline is None:
            return None
        recipe, nodes = known.recipe, outline.nodes
        folding = recipe.folding
        held = [self._facts.constant(nodes[index]) for index in folding.read]
        if not folding.fits(held):
            return None
        constants = folding.run(nodes, held) if held or folding.calls else []
        return recipe.repeat(nodes, constants, before, self._store)

    def learn(self, subject: Subject, built: Built) -> None:
        """Remember what a match became; `built` has passed every check on its types."""
        match, outline, _ = subject
        if outline is None:
            return
        try:
            recipe = Recipe.of(outline.nodes, built, self._types, self._facts)
            twin = None if outline.reach is None else Twin.of(match, outline)
        except Unrepeatable:
            return
        known = self._known[outline.key] = _Known(recipe, twin)
        if outline.is_static:
            self._shared.add(outline.key, known)
        if outline.reach is not None:
            self._shared.reach(match.rule, outline.reach)


class Subject(NamedTuple):
    """A match that is to be rewritten, and what is known of equal ones."""

    match: Match
    outline: Outline | None
    """What its right side depends on; None if on more than that."""
    known: _Known | None


class _Known(NamedTuple):
    """What is known of equal matches."""

    recipe: Recipe
    twin: Twin | None
    """None if it takes a search to find them."""


_MOST_KNOWN: Final = 1_000
_MOST_REACHES: Final = 4


@attrs.frozen(eq=False)
class _Memory:
    """What outlives a run."""

    known: dict[Hashable, _Known] = attrs.field(factory=dict)
    reaches: dict[CompiledRule, dict[Reach, None]] = attrs.field(factory=dict)

    def add(self, key: Hashable, known: _Known) -> None:
        if len(self.known) >= _MOST_KNOWN:
            self.known.clear()
        self.known[key] = known

    def reach(self, rule: CompiledRule, reach: Reach) -> None:
        """Look as far for other matches of a rule; the latest reaches are kept."""
        reaches = [reach, *self.reaches.get(rule, ())][:_MOST_REACHES]
        self.reaches[rule] = dict.fromkeys(reaches)
