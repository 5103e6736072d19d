"""The syntax of a rule file, as parsed: names are text, nothing is resolved.

Positions and comments never take part in equality, so `parse(print(x)) == x` can be
stated in one line.
"""

from __future__ import annotations

from typing import Literal as OneOf

import attrs

from rewrite_engine.source import NOWHERE, Placed, Span

# --- expressions: patterns, right sides, guards and literal arithmetic share them ---


@attrs.frozen
class Name(Placed):
    """`x`, or a dotted path such as `aten.add.Tensor` or `.relu` (a method).

    On the right, `y'` (prime included in `id`) is what the matched `y` became.
    """

    id: str


@attrs.frozen
class LiteralName(Placed):
    """`$k`; `id` is without the dollar sign."""

    id: str


@attrs.frozen
class Constant(Placed):
    """A number, a string, `true`, `false` or `none`."""

    value: int | float | str | bool | None

    def __eq__(self, other: object) -> bool:
        # 1, 1.0 and true are equal in Python and different in a rule.
        return (
            isinstance(other, Constant)
            and type(self.value) is type(other.value)
            and repr(self.value) == repr(other.value)
        )

    def __hash__(self) -> int:
        return hash((type(self.value), repr(self.value)))


@attrs.frozen
class Wildcard(Placed):
    """`_`"""


@attrs.frozen
class Rest(Placed):
    """`..` or, on the right, `..y`."""

    of: str | None = None


@attrs.frozen
class Star(Placed):
    """`*xs`"""

    id: str


@attrs.frozen
class ListExpr(Placed):
    """`[a, b]`"""

    items: tuple[Expr, ...]


@attrs.frozen
class Keyword(Placed):
    """`eps=$eps` in a call."""

    name: str
    value: Expr


@attrs.frozen
class Call(Placed):
    """`f(a, b, key=c, ..)`; `f?(a)` is optional; `f^+(a)` and `f^*(a)` are chains."""

    callee: Name
    args: tuple[Expr, ...] = ()
    keywords: tuple[Keyword, ...] = ()
    rest: Rest | None = None
    optional: bool = False
    chain: OneOf["", "+", "*"] = ""

    @property
    def operands(self) -> tuple[tuple[int | str, Expr], ...]:
        """The arguments by position, then those by keyword."""
        named = ((keyword.name, keyword.value) for keyword in self.keywords)
        return (*enumerate(self.args), *named)


@attrs.frozen
class Capture(Placed):
    """`N@p`"""

    id: str
    value: Expr


@attrs.frozen
class Optional(Placed):
    """`p?` as an operand."""

    value: Expr


@attrs.frozen
class Alternatives(Placed):
    """`p | q`; at least two options, none of them `Alternatives` itself."""

    options: tuple[Expr, ...]


InfixOperator = OneOf["+", "-", "*", "/", "//", "%"]
Comparator = OneOf["==", "!=", "<", "<=", ">", ">="]


@attrs.frozen
class Infix(Placed):
    """`a + b`: the tensor operator on graph values, arithmetic on literals."""

    operator: InfixOperator
    left: Expr
    right: Expr


@attrs.frozen
class Negate(Placed):
    """`-a`; a minus sign before a number is part of the `Constant`."""

    value: Expr


@attrs.frozen
class Compare(Placed):
    """`a == b`"""

    operator: Comparator
    left: Expr
    right: Expr


@attrs.frozen
class IfElse(Placed):
    """`then if condition else otherwise`"""

    then: Expr
    condition: Expr
    otherwise: Expr


@attrs.frozen
class Not(Placed):
    """`not a`"""

    value: Expr


@attrs.frozen
class And(Placed):
    """`a and b`"""

    left: Expr
    right: Expr


@attrs.frozen
class Or(Placed):
    """`a or b`"""

    left: Expr
    right: Expr


@attrs.frozen
class TensorType(Placed):
    """`f16|bf16[$B, *S]`: no dtypes = any dtype; `shape` None = any shape.

    A dimension is a `Constant`, a `LiteralName`, a `Wildcard` or a `Star`.
    """

    dtypes: tuple[str, ...] = ()
    shape: tuple[Expr, ...] | None = None


@attrs.frozen
class HasType(Placed):
    """`x: f32[$C]`"""

    id: str
    type: TensorType


@attrs.frozen
class IsConst(Placed):
    """`w is const`"""

    id: str


@attrs.frozen
class Matches(Placed):
    """`v ~ qdq(_)`; `of_readers`: `readers(v) ~ relu(v)`, of each reader of `v`."""

    id: str
    pattern: Expr
    of_readers: bool = False


@attrs.frozen
class StateRead(Placed):
    """`m.attr` on a matched module (dotted names whose head is bound)."""

    module: str
    attribute: str


Expr = (
    Name
    | LiteralName
    | Constant
    | Wildcard
    | Rest
    | Star
    | ListExpr
    | Call
    | Capture
    | Optional
    | Alternatives
    | Infix
    | Negate
    | Compare
    | IfElse
    | Not
    | And
    | Or
    | HasType
    | IsConst
    | Matches
    | StateRead
)


# --- statements of a rule ---


@attrs.frozen
class Bind(Placed):
    """`y = conv(x, w)`: on the left a pattern, on the right a new node."""

    name: str
    value: Expr


@attrs.frozen
class Where(Placed):
    """`where a, b else "reason"`: a failed guard refuses if it has a reason, else it
    filters.
    """

    guards: tuple[Expr, ...]
    reason: str | None = None


@attrs.frozen
class Replace(Placed):
    """`y' = e`: what the matched `y` becomes."""

    name: str
    value: Expr


@attrs.frozen
class Constructed(Placed):
    """`param w = e`, `buffer w = e`, `value w = e`: evaluated at rewrite time."""

    kind: OneOf["param", "buffer", "value"]
    name: str
    value: Expr


@attrs.frozen
class Assign(Placed):
    """`w <- e` or `m.attr <- e`; with `own`, other readers keep the old value."""

    target: str
    value: Expr
    own: bool = False


@attrs.frozen
class Meta(Placed):
    """`meta a, b <- y {key1, key2}`; no keys = all."""

    names: tuple[str, ...]
    source: str
    keys: tuple[str, ...] = ()


@attrs.frozen
class Keep(Placed):
    """`keep n, m`: inner nodes that may have other users."""

    names: tuple[str, ...]


@attrs.frozen
class Erase(Placed):
    """`erase n, m`: matched side-effecting nodes that go."""

    names: tuple[str, ...]


LeftStatement = Bind | Where
RightStatement = Bind | Replace | Constructed | Assign | Meta | Keep | Erase


# --- items of a file ---


@attrs.frozen
class Use(Placed):
    """`use "file.rules" (names)`; no names = all."""

    path: str
    names: tuple[str, ...] = ()


@attrs.frozen
class UseHooks(Placed):
    """`use pkg.hooks (f, g)`"""

    module: str
    names: tuple[str, ...]


@attrs.frozen
class OpDef(Placed):
    """`op add = aten.add.Tensor | operator.add commutes(0, 1) when alpha == 1`"""

    name: str
    spellings: tuple[Name, ...]
    commutes: tuple[int, ...] = ()
    when: Expr | None = None
    doc: str = ""


@attrs.frozen
class Row(Placed):
    """One row of a family: its operator and its constants, in parameter order."""

    values: tuple[Expr, ...]


@attrs.frozen
class FamilyDef(Placed):
    """`family Conv(op, $axis) = (aten.conv1d, 0) | …`"""

    name: str
    parameters: tuple[Name | LiteralName, ...]
    rows: tuple[Row, ...]
    doc: str = ""


@attrs.frozen
class PatternDef(Placed):
    """`pattern qdq(v) = …`"""

    name: str
    parameters: tuple[Name | LiteralName, ...]
    value: Expr
    doc: str = ""


@attrs.frozen
class ForFamily(Placed):
    """`for (conv, $axis) in Conv`"""

    parameters: tuple[Name | LiteralName, ...]
    family: str


@attrs.frozen
class Precision(Placed):
    """`exact` (tolerance 0) or `inexact TOL`; None, `inexact` alone, means by dtype.

    With `when`, nothing is claimed of matches for which the condition does not hold.
    """

    tolerance: float | None
    when: Expr | None = None


@attrs.frozen
class RuleDef(Placed):
    """`rule n for … once benefit 2 inexact 1e-4 { left => right }`"""

    name: str
    left: tuple[LeftStatement, ...]
    right: tuple[RightStatement, ...]
    family: ForFamily | None = None
    strategy: OneOf["once", "fixpoint"] | None = None
    benefit: int | None = None
    precision: Precision | None = None
    doc: str = ""
    name_span: Span = attrs.field(default=NOWHERE, eq=False, repr=False, kw_only=True)


@attrs.frozen
class Phase(Placed):
    """`once {a, c.*}`: names, or a file stem followed by `.*`."""

    strategy: OneOf["once", "fixpoint"]
    rules: tuple[str, ...]


@attrs.frozen
class PipelineDef(Placed):
    """`pipeline p { once {a} fixpoint {b} }`"""

    name: str
    phases: tuple[Phase, ...]
    doc: str = ""


@attrs.frozen
class Given(Placed):
    """`x: f32[2, 8]`; role `param` or `buffer` makes it module state."""

    name: str
    type: TensorType
    role: OneOf["input", "param", "buffer"] = "input"


@attrs.frozen
class ExpectCount(Placed):
    """`rule * 2`: so many rewrites of the rule."""

    rule: str
    count: int


@attrs.frozen
class ExpectEqual(Placed):
    """`equal 1e-6` (relative), or `equal` (bit by bit): outputs before and after."""

    tolerance: float | None


@attrs.frozen
class ExpectRefusal(Placed):
    """`refused rule "text"`: a refusal of the rule whose reason contains the text."""

    rule: str
    reason: str


@attrs.frozen
class TestDef(Placed):
    """`test "…" { given (…) { y = f(x)  return y } expect rule * 1, equal 1e-6 }`"""

    title: str
    given: tuple[Given, ...]
    body: tuple[Bind, ...]
    returns: tuple[Expr, ...]
    expect: tuple[ExpectCount | ExpectEqual | ExpectRefusal, ...]
    doc: str = ""

    __test__ = False  # pytest must not collect it


Item = Use | UseHooks | OpDef | FamilyDef | PatternDef | RuleDef | PipelineDef | TestDef


@attrs.frozen
class Comment:
    """A `#` comment: its text, and whether it stands alone on its line."""

    text: str
    span: Span
    own_line: bool


@attrs.frozen
class File:
    """A rule file, in the order of its text."""

    items: tuple[Item, ...]
    comments: tuple[Comment, ...] = attrs.field(default=(), eq=False, repr=False)
