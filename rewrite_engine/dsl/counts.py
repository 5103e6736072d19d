"""How many calls a rule takes out of a graph and puts in, operator by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, Final, TypeAlias

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import (
    Apply,
    Build,
    Captured,
    Chain,
    Choose,
    Computed,
    Either,
    Literal,
    MakeList,
    Operator,
    Reemit,
    Rule,
    Slot,
    Term,
    Use,
    Value,
)
from rewrite_engine.dsl.values import values_in
from rewrite_engine.dsl.walk import references, terms_in

Key: TypeAlias = Hashable
"""What is counted: all calls, those of an operator, or those with a literal in it."""

CALLS: Key = "calls"


@attrs.frozen
class Balance:
    """One rule on one row of its family: the least that it removes, the most it adds.

    Counts leave out what a rule copies as it matched it.
    """

    rule: Rule
    removed: Counter[Key]
    added: Counter[Key]

    def change(self, key: Key) -> int:
        """By how much a count grows at most."""
        return self.added[key] - self.removed[key]


def balances(rules: Sequence[Rule]) -> Iterator[Balance]:
    """The balance of every row of every rule, with every choice of alternatives."""
    for rule in rules:
        operators: list[Operator | None] = [None]
        if rule.family is not None:
            operators = [row.operator for row in rule.family.rows]
        for operator, chosen in product(operators, _choices(rule)):
            yield _Counting(rule, operator, chosen).balance()


def _choices(rule: Rule) -> list[dict[int, Term]]:
    """The options that are taken, by the identity of the alternatives."""
    terms = (t for binding in rule.bindings for t in terms_in(binding.term))
    places = [term for term in terms if isinstance(term, Either)]
    if prod(len(place.options) for place in places) > _MOST_CHOICES:
        return [{}]
    keys = [id(place) for place in places]
    taken = product(*(place.options for place in places))
    return [dict(zip(keys, options, strict=True)) for options in taken]


_MOST_CHOICES: Final = 64


@attrs.frozen(eq=False)
class _Counting:
    rule: Rule
    slot: Operator | None
    chosen: dict[int, Term]

    def balance(self) -> Balance:
        terms = {binding.name: binding.term for binding in self.rule.bindings}
        staying = self._staying(terms)
        removed: Counter[Key] = Counter()
        for name, term in terms.items():
            if name not in staying:
                removed += self._least(term)
        added: Counter[Key] = Counter()
        for create in self.rule.creates:
            if create.kind == "node":
                added += self._most(create.value)
        return Balance(self.rule, removed, added)

    def _staying(self, terms: dict[str, Term]) -> set[str]:
        """The bindings that are kept, or that the right side reads as they are."""
        used = {
            value.name
            for create in self.rule.creates
            for value in values_in(create.value)
            if isinstance(value, Use)
        }
        todo, found = [*(used | self.rule.keep) & terms.keys()], set[str]()
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += references(terms[name])
        return found

    # --- the left side ---

    def _least(self, term: Term) -> Counter[Key]:
        """What is there in every match of a term."""
        match term:
            case Apply(optional=True, operands=operands):
                return self._least(operands[0].value)
            case Apply(operator, operands):
                own = Counter([CALLS, *self._keys(operator)])
                for operand in operands:
                    if isinstance(operand.value, Literal):
                        own[self._literal(operator, operand.key, operand.value)] += 1
                    own += self._least(operand.value)
                return own
            case Either() if id(term) in self.chosen:
                return self._least(self.chosen[id(term)])
            case Either(options):
                first, *others = map(self._least, options)
                for other in others:
                    first &= other
                return first
            case Captured(name, value):
                return Counter() if name in self._reemitted else self._least(value)
            case Chain(link, _, inner, least):
                links = self._least(link)
                times = Counter({key: count * least for key, count in links.items()})
                return times + self._least(inner)
        return Counter()

    @property
    def _reemitted(self) -> set[str]:
        values = (v for c in self.rule.creates for v in values_in(c.value))
        return {value.capture for value in values if isinstance(value, Reemit)}

    # --- the right side ---

    def _most(self, value: Value) -> Counter[Key]:
        """What is built at most."""
        match value:
            case Build(operator, arguments):
                own = Counter([CALLS, *self._keys(operator)])
                given = {a.key: a.value for a in arguments}
                own.update(self._possible(operator, given))
                for argument in arguments:
                    own += self._most(argument.value)
                return own
            case Reemit(_, items) | MakeList(items):
                return sum(map(self._most, items), Counter())
            case Choose(_, then, otherwise):
                return self._most(then) | self._most(otherwise)
        return Counter()

    def _possible(self, operator: Operator | Slot, given: dict[Any, Value]) -> set[Key]:
        """The counted literals that a new call may have."""
        found = set()
        for term in (t for b in self.rule.bindings for t in terms_in(b.term)):
            if isinstance(term, Apply) and self._path(term.operator) == self._path(
                operator
            ):
                for operand in term.operands:
                    if isinstance(operand.value, Literal) and not self._differs(
                        given.get(operand.key), operand.value
                    ):
                        found.add(self._literal(operator, operand.key, operand.value))
        return found

    def _differs(self, value: Value | None, literal: Literal) -> bool:
        return (
            isinstance(value, Computed)
            and isinstance(value.expr, nodes.Constant)
            and value.expr.value != literal.value
        )

    # --- keys ---

    def _keys(self, operator: Operator | Slot) -> tuple[Key, ...]:
        return (self._path(operator),)

    def _literal(
        self, operator: Operator | Slot, key: int | str, literal: Literal
    ) -> Key:
        return self._path(operator), key, repr(literal.value)

    def _path(self, operator: Operator | Slot) -> str:
        named = self.slot if isinstance(operator, Slot) else operator
        assert named is not None, "a slot has a family"
        return named.spellings[0].path
