"""Which names of a left side may be absent in a match, and which come together."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from rewrite_engine.dsl.checked import (
    Apply,
    Binding,
    Captured,
    Chain,
    Either,
    Items,
    LiteralVariable,
    Maybe,
    Others,
    Reference,
    Term,
    Variable,
)
from rewrite_engine.dsl.walk import terms_in

Names = frozenset[str]
_NONE: Names = frozenset()


@attrs.frozen
class Presence:
    """`optional` names may be absent; `implied[n]` are present whenever `n` is."""

    optional: Names
    implied: Mapping[str, Names]

    def and_optional(self, name: str) -> Presence:
        """The same, with one more name that may be absent."""
        return Presence(self.optional | {name}, {**self.implied, name: _NONE})

    def with_implied(self, present: Names) -> Names:
        """All names that are present when the given ones are."""
        return present.union(*(self.implied.get(name, _NONE) for name in present))


NOTHING_OPTIONAL = Presence(_NONE, {})


def presence(bindings: tuple[Binding, ...], roots: tuple[str, ...]) -> Presence:
    """The presence of every name of a left side.

    A binding stands before those that refer to it, so that nothing here recurses
    along a chain of bindings.
    """
    terms = [term for binding in bindings for term in terms_in(binding.term)]
    if not any(map(_is_choice, terms)):
        return NOTHING_OPTIONAL
    walk = _Walk({binding.name: binding.term for binding in bindings})
    for binding in bindings:
        walk.named(binding.name)
    certain = _NONE.union(*map(walk.named, roots))
    for root in roots:
        walk.visit(Reference(root), certain)
    while walk.pending:
        name, present = walk.pending.pop()
        walk.visit(walk.terms[name], present | walk.named(name))
    return Presence(frozenset(walk.implied) - certain, walk.implied)


def _is_choice(term: Term) -> bool:
    """Whether not all that is below a term is in every match."""
    return isinstance(term, Maybe | Either) or (
        isinstance(term, Apply) and term.optional
    )


@attrs.define
class _Walk:
    terms: Mapping[str, Term]
    implied: dict[str, Names] = attrs.field(factory=dict)
    pending: list[tuple[str, Names]] = attrs.field(factory=list)
    _certain: dict[str, Names] = attrs.field(factory=dict)

    def named(self, name: str) -> Names:
        """Names that a binding's match binds in every case, its own included."""
        if name not in self._certain:
            self._certain[name] = self.certain(self.terms[name]) | {name}
        return self._certain[name]

    def certain(self, term: Term) -> Names:
        """Names that a term's match binds in every case."""
        match term:
            case Variable(name) | LiteralVariable(name) | Others(name):
                return frozenset({name})
            case Reference(name):
                return self.named(name)
            case Captured(name, value):
                return self.certain(value) | {name}
            case Chain(_, _, inner):
                return self.certain(inner)
            case Items(items):
                return _NONE.union(*map(self.certain, items))
            case Either(options):
                return frozenset.intersection(*map(self.certain, options))
            case Apply():
                return _NONE.union(*map(self.certain, _needed(term)))
        return _NONE

    def visit(self, term: Term, present: Names) -> None:
        """Note, for every name in a term, what is present where it is bound."""
        match term:
            case Variable(name) | LiteralVariable(name) | Others(name):
                self._bind(name, present)
            case Reference(name):
                if self._bind(name, present):
                    self.pending.append((name, present))
            case Captured(name, value):
                self._bind(name, present)
                self.visit(value, present)
            case Chain(_, _, inner):
                self.visit(inner, present)
            case Items(items):
                self._visit_all(items, present)
            case Either(options):
                for option in options:
                    self.visit(option, present | self.certain(option))
            case Maybe(value):
                self.visit(value, present | self.certain(value))
            case Apply(_, operands):
                self._visit_call(term, tuple(o.value for o in operands), present)

    def _visit_call(
        self, term: Apply, operands: tuple[Term, ...], present: Names
    ) -> None:
        needed = _needed(term)
        self._visit_all(needed, present)
        others = tuple(o for o in operands if all(o is not n for n in needed))
        bound = _NONE.union(present, *map(self.certain, others))
        self._visit_all(others, bound)

    def _visit_all(self, terms: tuple[Term, ...], present: Names) -> None:
        for term in terms:
            self.visit(term, present)

    def _bind(self, name: str, present: Names) -> bool:
        """Whether something new is known about a name."""
        known = self.implied.get(name)
        self.implied[name] = present if known is None else known & present
        return self.implied[name] != known


def _needed(term: Apply) -> tuple[Term, ...]:
    """The operands that are matched even where an optional call is absent."""
    return tuple(o.value for o in term.operands if not term.optional or o.key == 0)
