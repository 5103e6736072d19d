"""Left sides as they are compared: whether one matches all that another matches, and
whether some value could be matched by both.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final, TypeAlias

import attrs

from rewrite_engine.dsl.checked import (
    Anything,
    Apply,
    Captured,
    Chain,
    Either,
    Items,
    Literal,
    LiteralVariable,
    Maybe,
    Operator,
    Reference,
    Rule,
    Term,
    Variable,
)

_MAX_DEPTH: Final = 100


@attrs.frozen(eq=False)
class Call:
    """A call with its operands by position, where they have one.

    `paths` are the spellings that it may have, those of all rows for the slot of a
    family; `ways` say as well which operands of each commute.
    """

    paths: frozenset[str]
    ways: frozenset[Hashable]
    operands: Mapping[int | str, Shape]
    rest: bool
    optional: bool


@attrs.frozen(eq=False)
class Choice:
    """Alternatives."""

    options: tuple[Shape, ...]


@attrs.frozen(eq=False)
class Unknown:
    """What is not looked into."""


Shape: TypeAlias = Call | Choice | Unknown | Term
"""A term whose names and captures are replaced by what they stand for."""


def shape_of(rule: Rule) -> Shape:
    """What the first root of a rule is matched by."""
    return _Shapes(rule).of(Reference(rule.roots[0]), _MAX_DEPTH)


@attrs.define(eq=False)
class _Shapes:
    rule: Rule
    _terms: Mapping[str, Term] = attrs.field(init=False)
    _named: dict[str, Shape] = attrs.field(factory=dict)

    @_terms.default
    def _terms_by_name(self) -> dict[str, Term]:
        return {binding.name: binding.term for binding in self.rule.bindings}

    def of(self, term: Term, depth: int) -> Shape:
        if depth == 0:
            return Unknown()
        match term:
            case Reference(name):
                if name not in self._named:
                    self._named[name] = self.of(self._terms[name], depth - 1)
                return self._named[name]
            case Captured(_, value):
                return self.of(value, depth)
            case Either(options):
                return Choice(tuple(self.of(each, depth - 1) for each in options))
            case Apply():
                return self._call(term, depth)
        return term

    def _call(self, term: Apply, depth: int) -> Call:
        operators, names = self.rule.operators(term.operator), list[str]()
        if isinstance(term.operator, Operator):
            names = [p.name for p in term.operator.spellings[0].parameters]
        operands = {
            names.index(o.key) if o.key in names else o.key: self.of(o.value, depth - 1)
            for o in term.operands
        }
        paths = frozenset(path for each in operators for path in each.paths)
        ways = frozenset((path, o.commuting) for o in operators for path in o.paths)
        return Call(paths, ways, operands, term.rest, term.optional)


def root_paths(shape: Shape) -> frozenset[str]:
    """The spellings of the calls that may be the root."""
    match shape:
        case Call(paths=paths, optional=False):
            return paths
        case Call(paths=paths, operands=operands):
            return paths | root_paths(operands.get(0, Unknown()))
        case Choice(options):
            return frozenset[str]().union(*map(root_paths, options))
    return frozenset()


@attrs.define(eq=False)
class Comparison:
    """Questions about two left sides, each answered once for the same two calls."""

    _covering: dict[tuple[int, int], bool] = attrs.field(factory=dict, init=False)
    _meeting: dict[tuple[int, int], bool] = attrs.field(factory=dict, init=False)

    def covers(self, shape: Shape, below: Shape) -> bool:
        """Whether `shape` matches all that `below` does; if unknown, it does not."""
        if isinstance(shape, Anything):
            return True
        if isinstance(below, Choice):
            return all(self.covers(shape, option) for option in below.options)
        match shape:
            case Variable():
                return isinstance(below, Variable | Call)
            case LiteralVariable():
                return isinstance(below, LiteralVariable | Literal)
            case Literal():
                return shape == below
            case Choice(options):
                return any(self.covers(option, below) for option in options)
            case Call() if isinstance(below, Call):
                pair = id(shape), id(below)
                if pair not in self._covering:
                    self._covering[pair] = self._covers_call(shape, below)
                return self._covering[pair]
        return False

    def _covers_call(self, call: Call, below: Call) -> bool:
        if call.optional or below.optional or (below.rest and not call.rest):
            return False
        if not call.ways >= below.ways:
            return False
        if below.operands.keys() - call.operands.keys() and not call.rest:
            return False
        return all(
            key in below.operands and self.covers(value, below.operands[key])
            for key, value in call.operands.items()
        )

    def may_meet(self, one: Shape, other: Shape) -> bool:
        """Whether some value could be matched by both; if unknown, it could."""
        for a, b in ((one, other), (other, one)):
            if isinstance(a, Choice):
                return any(self.may_meet(option, b) for option in a.options)
            if isinstance(a, Anything | Chain | Maybe | Unknown):
                return True
            if isinstance(a, Variable):
                return not isinstance(b, Literal | LiteralVariable | Items)
            if isinstance(a, Call) and a.optional:
                return True
        match one, other:
            case (Call(), Call()):
                pair = id(one), id(other)
                if pair not in self._meeting:
                    self._meeting[pair] = self._may_meet_call(one, other)
                return self._meeting[pair]
            case (Literal(), Literal()):
                return one == other
        kinds = (Literal, LiteralVariable)
        return isinstance(one, kinds) and isinstance(other, kinds)

    def _may_meet_call(self, one: Call, other: Call) -> bool:
        if one.paths.isdisjoint(other.paths):
            return False
        shared = one.operands.keys() & other.operands.keys()
        return all(self.may_meet(one.operands[k], other.operands[k]) for k in shared)
