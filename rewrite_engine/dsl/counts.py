"""How many calls a rule takes out of a graph and puts in, operator by operator."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
    LiteralVariable,
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
from rewrite_engine.signatures import REQUIRED

Key: TypeAlias = Hashable
"""What is counted: all calls, those of an operator, or those with a literal in it."""

CALLS: Key = "calls"

_MayBe: TypeAlias = Callable[[Any], bool]
"""Whether a literal may be one of those that are counted."""

_Told: TypeAlias = Mapping[str, Mapping[tuple[int | str, str], _MayBe]]
"""Of each operator, by its path: what is counted of its operands, and which of their
literals are such."""


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
    told = _told_apart(rules)
    for rule in rules:
        for slot, chosen in product(_rows(rule), _choices(rule)):
            yield _Counting(rule, slot, chosen, told).balance()


def _rows(rule: Rule) -> Sequence[Operator | None]:
    return (None,) if rule.family is None else rule.family.operators


def _told_apart(rules: Sequence[Rule]) -> _Told:
    """What tells calls of an operator apart: literals in rules, guards on literals."""
    found = defaultdict[str, dict[tuple[int | str, str], _MayBe]](dict)
    for rule in rules:
        applied = [
            term
            for binding in rule.bindings
            for term in terms_in(binding.term)
            if isinstance(term, Apply)
        ]
        for slot, term in product(_rows(rule), applied):
            path = _called(term.operator, slot).spellings[0].path
            for operand in term.operands:
                for text, may_be in _literals(rule, operand.value):
                    found[path][operand.key, text] = may_be
    return found


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
    told: _Told

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
                    for literal, _ in _literals(self.rule, operand.value):
                        own[self._path(operator), (operand.key, literal)] += 1
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
                own.update(self._possible(value))
                for argument in arguments:
                    own += self._most(argument.value)
                return own
            case Reemit(_, items) | MakeList(items):
                return sum(map(self._most, items), Counter())
            case Choose(_, then, otherwise):
                return self._most(then) | self._most(otherwise)
        return Counter()

    def _possible(self, build: Build) -> set[Key]:
        """The counted literals that a new call may have."""
        path, found = self._path(build.operator), set[Key]()
        for (key, literal), may_be in self.told.get(path, {}).items():
            value = self._given(build, key)
            if value is _UNKNOWN or may_be(value):
                found.add((path, (key, literal)))
        return found

    def _given(self, build: Build, key: int | str) -> Any:
        """The literal that a new call has for a parameter, if the rule says it."""
        signature = _called(build.operator, self.slot).spellings[0]
        parameter = signature.parameter(key)
        for argument in build.arguments:
            if signature.parameter(argument.key) == parameter:
                match argument.value:
                    case Computed(nodes.Constant(value)):
                        return value
                return _UNKNOWN
        if parameter is None or build.rest_of is not None:
            return _UNKNOWN
        return _UNKNOWN if parameter.default is REQUIRED else parameter.default

    # --- keys ---

    def _keys(self, operator: Operator | Slot) -> tuple[Key, ...]:
        return (self._path(operator),)

    def _path(self, operator: Operator | Slot) -> str:
        return _called(operator, self.slot).spellings[0].path


def _called(operator: Operator | Slot, slot: Operator | None) -> Operator:
    named = slot if isinstance(operator, Slot) else operator
    assert named is not None, "a slot has a family"
    return named


# --- literals ---

_UNKNOWN: Final = object()

_ORDER: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _literals(rule: Rule, term: Term) -> Iterator[tuple[str, _MayBe]]:
    """What a rule says of an operand: the literal that it is, or guards on its name.

    With each, whether another literal may be such a one.
    """
    if isinstance(term, Literal):
        yield repr(term.value), lambda value: bool(value == term.value)
    elif isinstance(term, LiteralVariable):
        for guard in rule.guards:
            yield from _comparison(guard.expr, term.name)


def _comparison(guard: nodes.Expr, name: str) -> Iterator[tuple[str, _MayBe]]:
    """`$name < 2` as what it says and a test of literals; nothing of other guards."""
    match guard:
        case nodes.Compare(sign, nodes.LiteralName(id), nodes.Constant(limit)):
            holds = _ORDER[sign]
        case _:
            return
    if id == name:
        yield f"{sign} {limit!r}", lambda value: _may_hold(holds, value, limit)


def _may_hold(holds: Callable[[Any, Any], bool], value: Any, limit: Any) -> bool:
    if isinstance(value, bool) != isinstance(limit, bool):
        return True  # `1` and `true` are equal to Python, and not to a rule
    try:
        return holds(value, limit)
    except TypeError:
        return True
