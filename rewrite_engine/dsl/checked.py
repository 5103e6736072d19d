"""A checked rule: every name resolved, every call bound to a schema, macros expanded.

It differs from `nodes` in what is guaranteed: an operator is a list of known
signatures, a call's operands are keyed by position or by a parameter that exists, a
name is a graph value or a literal and never both, and every name that is read is bound.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterator, Mapping
from typing import Any
from typing import Literal as OneOf

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.expression_text import print_expr
from rewrite_engine.signatures import Signature
from rewrite_engine.source import Placed, Source, Span

# --- operators ---


@attrs.frozen(eq=False)
class Operator:
    """One operator and its spellings; the first is the one a right side builds.

    Operand keys of calls refer to the first spelling's signature; other spellings are
    aligned with it by parameter name, else by position. The same object stands for the
    operator wherever it is used, so that what is found out about it is found out once.
    """

    name: str
    spellings: tuple[Signature, ...]
    commutes: tuple[int, ...] = ()
    """Positions of interchangeable operands, in the first spelling."""
    when: nodes.Expr | None = None
    """Condition on parameters (names of the first spelling), e.g. `alpha == 1`."""
    fitting: dict[tuple[int, tuple[str, ...], bool], int | None] = attrs.field(
        factory=dict, init=False, repr=False
    )
    """The spelling that takes calls of so many operands by position, of these keywords,
    and with `..` or not, as far as such calls were met.
    """
    _others: dict[int, Operator] = attrs.field(factory=dict, init=False, repr=False)

    @functools.cached_property
    def paths(self) -> tuple[str, ...]:
        """The paths of its spellings."""
        return tuple(spelling.path for spelling in self.spellings)

    @functools.cached_property
    def commuting(self) -> tuple[tuple[int, ...], str]:
        """Which operands commute, and when, as text."""
        return self.commutes, "" if self.when is None else print_expr(self.when)

    def with_first(self, position: int) -> Operator:
        """The same operator with another spelling first."""
        if position == 0:
            return self
        if position not in self._others:
            first = self.spellings[position]
            others = (*self.spellings[:position], *self.spellings[position + 1 :])
            other = Operator(self.name, (first, *others), self.commutes, self.when)
            self._others[position] = other
        return self._others[position]


@attrs.frozen
class Slot:
    """The operator parameter of `for (conv, $axis) in Conv`."""

    name: str


# --- the left side ---


@attrs.frozen
class Variable(Placed):
    """A graph value: the same name is the same node everywhere in the rule."""

    name: str


@attrs.frozen
class LiteralVariable(Placed):
    """A Python literal captured under a name (without its dollar sign)."""

    name: str


@attrs.frozen
class Anything(Placed):
    """`_`: a graph value, a literal or an absent operand."""


@attrs.frozen
class TorchConstant:
    """A dtype, layout or memory format as the value of a literal: `torch.float32`."""

    name: str

    def __str__(self) -> str:
        return self.name


@attrs.frozen
class Literal(Placed):
    """A literal that must be equal, type included except that 1 and 1.0 are equal.

    `value` may be a tuple (a list of literals) or a `TorchConstant`. `1` never equals
    `true`.
    """

    value: Any


@attrs.frozen
class Items(Placed):
    """A list operand. At most one item is a `Rest`, which takes the others."""

    items: tuple[Term, ...]


@attrs.frozen
class Others(Placed):
    """`*xs` in a list: the remaining items, captured as a list of graph values."""

    name: str


@attrs.frozen
class Operand(Placed):
    """One argument: its position or parameter name in the canonical signature."""

    key: int | str
    value: Term


@attrs.frozen
class Apply(Placed):
    """A call. Parameters not mentioned must be at their default unless `rest`.

    `optional`: the node may be absent, then its first operand stands for it.
    """

    operator: Operator | Slot
    operands: tuple[Operand, ...]
    rest: bool = False
    optional: bool = False


@attrs.frozen
class Either(Placed):
    """Alternatives, tried in order with full backtracking."""

    options: tuple[Term, ...]


@attrs.frozen
class Maybe(Placed):
    """An operand that may be absent (not given, or `None`)."""

    value: Term


@attrs.frozen
class Reference(Placed):
    """The node that a binding of this name matches."""

    name: str


@attrs.frozen
class Captured(Placed):
    """`N@p`. `hole` is where a macro's first parameter stood, for re-emission.

    `N(v)` on the right copies every node matched inside `value` down to, and not
    including, `hole`, with `v` in place of what `hole` matched.
    For an operator capture (`N@relu(x)`) `hole` is None and `N(a, b)` replaces the
    leading operands of that one node.
    """

    name: str
    value: Term
    hole: Term | None = None


@attrs.frozen(eq=False)
class Hole(Placed):
    """Where a link of a chain takes the value of the next one."""


@attrs.frozen
class Chain(Placed):
    """`f^*(a)`: any number of links above `inner`, at least `least`.

    `link` holds `hole` where the next link, or `inner`, stands. Names inside it stand
    for lists, one item for each link, the outermost first.
    """

    link: Term
    hole: Hole
    inner: Term
    least: int


Term = (
    Variable
    | Hole
    | Chain
    | LiteralVariable
    | Anything
    | Literal
    | Items
    | Others
    | Apply
    | Either
    | Maybe
    | Reference
    | Captured
)


@attrs.frozen
class Binding(Placed):
    """`y = conv(…)` of the left side; `name` also names the node matched by `term`."""

    name: str
    term: Term


@attrs.frozen
class Guard(Placed):
    """A condition, and why a match is refused when it does not hold.

    `expr` is built of `nodes` expressions: comparisons and literal functions over
    names, `HasType`, `IsConst`, `Matches`, `And`, `Or`, `Not`. `patterns` gives the
    checked term of each `Matches` by the position of its span.
    """

    expr: nodes.Expr
    text: str
    """The guard as written, on one line."""
    reason: str | None = None
    patterns: Mapping[Span, Term] = attrs.field(factory=dict, eq=False)


# --- the right side ---


@attrs.frozen
class Use(Placed):
    """A value of the left side or an earlier one of the right side.

    `y'`, prime included, is the result of an earlier `y' = …`.
    """

    name: str


@attrs.frozen
class Computed(Placed):
    """A literal: an expression over literals and types of matched values."""

    expr: nodes.Expr


@attrs.frozen
class MakeList(Placed):
    """A list operand of the right side; `*xs` appears as `Spread`."""

    items: tuple[Value, ...]


@attrs.frozen
class Spread(Placed):
    """`*xs` in a list of the right side."""

    name: str


@attrs.frozen
class Argument(Placed):
    """One argument of a new call, keyed as `Operand`."""

    key: int | str
    value: Value


@attrs.frozen
class Build(Placed):
    """A new call. `rest_of` names the matched node whose other arguments it takes.

    With `rest_of` and the operator of that node, the node's own spelling is built.
    """

    operator: Operator | Slot
    arguments: tuple[Argument, ...]
    rest_of: str | None = None


@attrs.frozen
class Reemit(Placed):
    """`N(v)`: what a capture matched, again, with `arguments` as its operands."""

    capture: str
    arguments: tuple[Value, ...]


@attrs.frozen
class Choose(Placed):
    """`a if b else c`, decided at match time; a bare name in the condition asks
    whether an optional value is present.
    """

    condition: nodes.Expr
    then: Value
    otherwise: Value


@attrs.frozen
class Initial(Placed):
    """`initial(w)`: the state that `w` was before any write of the phase."""

    name: str


Value = Use | Initial | Computed | MakeList | Spread | Build | Reemit | Choose


@attrs.frozen
class Create(Placed):
    """`name = value` (kind `node`), a constant computed at rewrite time, or a write of
    the state that `name` stands for (`own`: other readers keep the old value).
    """

    kind: OneOf["node", "param", "buffer", "value", "write", "own"]
    name: str
    value: Value
    replaces: bool = False
    """`name' = value`: the result takes the place of the matched `name`."""


@attrs.frozen
class CopyMeta(Placed):
    """Metadata of `source` (all, or the named keys) copied to each of `names`."""

    names: tuple[str, ...]
    source: str
    keys: tuple[str, ...] = ()


# --- rules ---


@attrs.frozen
class FamilyRow(Placed):
    """What the parameters of `for (…) in F` stand for in one row."""

    operator: Operator
    literals: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class FamilyUse:
    """`for (conv, $axis) in Conv`: the slot's name and its rows."""

    slot: str
    rows: tuple[FamilyRow, ...]

    @property
    def operators(self) -> tuple[Operator, ...]:
        """What the slot stands for, row by row."""
        return tuple(row.operator for row in self.rows)


@attrs.frozen
class Rule:
    """One checked rule.

    `optional` names are graph values or literals that may be absent in a match.
    `roots` are the bindings that no other binding refers to, in source order.
    """

    name: str
    source: Source = attrs.field(eq=False, repr=False)
    span: Span = attrs.field(eq=False, repr=False)
    name_span: Span = attrs.field(eq=False, repr=False)
    doc: str
    family: FamilyUse | None
    bindings: tuple[Binding, ...]
    roots: tuple[str, ...]
    guards: tuple[Guard, ...]
    creates: tuple[Create, ...]
    meta: tuple[CopyMeta, ...] = ()
    keep: frozenset[str] = frozenset()
    erase: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    once: bool = False
    benefit: int | None = None
    tolerance: float | None = None
    """0.0 for `exact`; None: by dtype."""
    when: nodes.Expr | None = None
    """What must hold of a match for which this is claimed."""

    def operators(self, called: Operator | Slot) -> tuple[Operator, ...]:
        """The operators that a callee stands for, one for each row of a family."""
        if isinstance(called, Operator):
            return (called,)
        return self.family.operators if self.family else ()


@attrs.frozen
class Test(Placed):
    """A `test` block; its body is checked like a right side."""

    title: str
    given: tuple[nodes.Given, ...]
    creates: tuple[Create, ...]
    returns: tuple[Value, ...]
    expect: tuple[nodes.ExpectCount | nodes.ExpectEqual | nodes.ExpectRefusal, ...]
    source: Source = attrs.field(eq=False, repr=False)

    __test__ = False  # pytest must not collect it

    @property
    def expected(self) -> frozenset[str]:
        """The rules of which something is expected."""
        named = (e for e in self.expect if not isinstance(e, nodes.ExpectEqual))
        return frozenset(each.rule for each in named)


@attrs.frozen
class Phase:
    """Rules of a pipeline that run together, by name."""

    once: bool
    rules: tuple[str, ...]

    def only(self, names: Container[str]) -> Phase:
        """The phase with some of its rules."""
        return attrs.evolve(self, rules=tuple(n for n in self.rules if n in names))


@attrs.frozen
class RuleFile:
    """Every rule and test that one load made available, in source order.

    `phases` are those of the file's pipeline, if it has one: it says what is run.
    """

    rules: tuple[Rule, ...]
    tests: tuple[Test, ...] = ()
    phases: tuple[Phase, ...] = ()

    def only(self, names: frozenset[str], *, once: bool = False) -> RuleFile:
        """The rules of these names, and the tests that expect something of them; with
        `once`, each at most once at each place.
        """
        rules = tuple(rule for rule in self.rules if rule.name in names)
        phases = [phase.only(names) for phase in self.phases]
        together = Phase(True, tuple(rule.name for rule in rules))
        return RuleFile(
            rules,
            tuple(t for t in self.tests if names.issuperset(t.expected) and t.expected),
            tuple(p for p in ([together] if once else phases) if p.rules),
        )

    def rules_together(self) -> Iterator[tuple[Rule, ...]]:
        """The rules of each phase; without a pipeline, all of them."""
        named = {rule.name: rule for rule in self.rules}
        if not self.phases:
            yield self.rules
        for phase in self.phases:
            rules = (named[name] for name in phase.rules)
            yield tuple(attrs.evolve(r, once=r.once or phase.once) for r in rules)
