"""What became of a match is done again for equal ones.

A model repeats its layers. What a match becomes depends on its calls, on the literals
and types of what it binds, and not on which nodes these are: the first of equal matches
is built from the replacement graph, the others repeat what was made for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

import attrs
from torch import fx

from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.constants import Store
from rewrite_engine.rewriting.outlines import Outline, Outliner
from rewrite_engine.rewriting.plain import Plain, plain
from rewrite_engine.rewriting.reaches import Reach, Unrepeatable
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
        self.store = Store(transaction, state, types)
        self._facts = state.facts
        self._types = types
        self._outliner = Outliner(state.facts, types)
        self._own = _Memory()
        self._is_exported = state.is_exported
        self._memory = memory

    @cached_property
    def _shared(self) -> _Memory:
        """What is known from graphs that record values alike."""
        # An exported program takes fewer calls than a module with the same records.
        kept_for = self._types.convention, self._is_exported
        return self._memory.setdefault(kept_for, _Memory())

    def find(self, rule: CompiledRule, anchor: fx.Node) -> Place | None:
        """Where a search at this node would find what it has found before."""
        type_of = self._outliner.type_of
        for reach, table in self._shared.tables_of(rule).items():
            seen = None if reach is None else reach.read(anchor, type_of)
            if seen is not None:
                outline = Outline(*seen, reach)
                known = table.get(outline.key) or self._own.look_up(rule, outline)
                if known is not None and known.twin is not None:
                    return Place(outline, known, known.twin)
        return None

    def recall(self, match: Match) -> Subject:
        """A match, with what is known of equal ones."""
        try:
            outline = self._outliner.of(match) if match.rule.is_repeatable else None
        except Unrepeatable:
            outline = None
        known = None if outline is None else self._look_up(match.rule, outline)
        return Subject(match, outline, known)

    def _look_up(self, rule: CompiledRule, outline: Outline) -> Known | None:
        return self._shared.look_up(rule, outline) or self._own.look_up(rule, outline)

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
        return recipe.repeat(nodes, constants, before, self.store)

    def learn(self, subject: Subject, built: Built, aliases: AliasIndex) -> None:
        """Remember what a match became; `built` has passed every check on its types."""
        match, outline, _ = subject
        if outline is None:
            return
        try:
            recipe = Recipe.of(outline.nodes, built, self._types, self._facts)
            twin = None if outline.reach is None else Twin.of(match, outline)
        except Unrepeatable:
            return
        nodes, how = outline.nodes, None
        if twin is not None:
            how = plain(match, nodes, built, recipe, self.store, aliases)
        memory = self._shared if outline.is_static else self._own
        memory.add(match.rule, outline, Known(recipe, twin, how))
        if outline.reach is not None:
            self._shared.table(match.rule, outline.reach)


class Known(NamedTuple):
    """What is known of equal matches."""

    recipe: Recipe
    twin: Twin | None
    """None if it takes a search to find them."""
    plain: Plain | None
    """How they are rewritten, where little can stand against it."""


class Place(NamedTuple):
    """Where a match is known to be."""

    outline: Outline
    known: Known
    twin: Twin

    def subject(self) -> Subject:
        """What stands there."""
        return Subject(self.twin.match(self.outline.nodes), self.outline, self.known)


class Subject(NamedTuple):
    """A match that is to be rewritten, and what is known of equal ones."""

    match: Match
    outline: Outline | None
    """What its right side depends on; None if on more than that."""
    known: Known | None


_MOST_KNOWN: Final = 1_000
_MOST_REACHES: Final = 16
_Table = dict[Hashable, Known]
_NOTHING: Final[Mapping[Any, Any]] = {}


@attrs.define(eq=False)
class _Memory:
    """What is known of equal matches, by their rules, reaches and keys."""

    _tables: dict[CompiledRule, dict[Reach | None, _Table]] = attrs.field(factory=dict)
    _size: int = 0

    def tables_of(self, rule: CompiledRule) -> Mapping[Reach | None, _Table]:
        """What is known by how far searches looked; None, if not only that mattered."""
        return self._tables.get(rule, _NOTHING)

    def look_up(self, rule: CompiledRule, outline: Outline) -> Known | None:
        table = self._tables.get(rule, _NOTHING).get(outline.reach, _NOTHING)
        known: Known | None = table.get(outline.key)
        return known

    def table(self, rule: CompiledRule, reach: Reach | None) -> _Table:
        """The table of a reach; of the reaches, the latest have one."""
        tables = self._tables.setdefault(rule, {})
        if reach not in tables and len(tables) >= _MOST_REACHES:
            del tables[next(iter(tables))]
        return tables.setdefault(reach, {})

    def add(self, rule: CompiledRule, outline: Outline, known: Known) -> None:
        if self._size >= _MOST_KNOWN:
            self._tables.clear()
            self._size = 0
        self.table(rule, outline.reach)[outline.key] = known
        self._size += 1
