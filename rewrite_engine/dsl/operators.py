"""Operators by name: operator classes, paths of the catalog, and families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.catalog import NAMESPACES
from rewrite_engine.dsl.checked import FamilyRow, FamilyUse, Operator, TorchConstant
from rewrite_engine.dsl.functions import FUNCTIONS, TORCH_CONSTANTS, Function
from rewrite_engine.dsl.scopes import (
    Definition,
    Scope,
    did_you_mean,
    span_of_name,
    suggestion,
)
from rewrite_engine.dsl.walk import names_read
from rewrite_engine.signatures import Signature
from rewrite_engine.source import Span

INFIX: Final = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floor_divide",
    "%": "remainder",
    "==": "eq",
    "!=": "ne",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
}
"""The operator class of the prelude that a sign stands for between graph values."""

NEGATE: Final = "neg"


@attrs.define(eq=False)
class Operators:
    """Resolves the operators of one catalog; equal names give the same `Operator`.

    Serves any number of loads: a definition that outlives one, such as the prelude's,
    is resolved once.
    """

    _classes: WeakKeyDictionary[Definition, Operator | None] = attrs.field(
        factory=WeakKeyDictionary
    )
    _paths: dict[str, Operator] = attrs.field(factory=dict)

    def callee(
        self, scope: Scope, name: nodes.Name
    ) -> Operator | Definition | Function | None:
        """What a call calls; a `Definition` is one of a pattern. None: reported."""
        if "." in name.id:
            return self.path(scope, name)
        found = scope.find(name.id)
        if found is None and name.id in FUNCTIONS:
            return FUNCTIONS[name.id]
        if found is None:
            _report_unknown(scope, name)
        elif isinstance(found.item, nodes.OpDef):
            return self.operator_class(found)
        elif isinstance(found.item, nodes.PatternDef):
            return found
        else:
            message = f"`{name.id}` is a family, not an operator"
            hint = f"write `for op in {name.id}` after the rule's name"
            notes = (found.note("defined here"),)
            scope.report("E201", message, name.span, notes=notes, hint=hint)
        return None

    def path(self, scope: Scope, name: nodes.Name) -> Operator | None:
        """The operator of a dotted path, with all overloads that it covers."""
        if name.id not in self._paths:
            spellings = tuple(_signatures(scope, name))
            if not spellings:
                return None
            self._paths[name.id] = Operator(name.id, spellings)
        return self._paths[name.id]

    def operator_class(self, definition: Definition) -> Operator | None:
        """The operator that an `op` item defines; its faults are reported."""
        try:
            return self._classes[definition]
        except KeyError:
            found = self._classes[definition] = _operator_class(definition)
            return found

    def infix(self, scope: Scope, sign: str, span: Span) -> Operator | None:
        """The prelude's operator class behind a sign between graph values."""
        return self._of_prelude(scope, INFIX[sign], sign, span)

    def negate(self, scope: Scope, span: Span) -> Operator | None:
        """The prelude's operator class behind a minus sign before a graph value."""
        return self._of_prelude(scope, NEGATE, "-", span)

    def _of_prelude(
        self, scope: Scope, name: str, sign: str, span: Span
    ) -> Operator | None:
        found = scope.prelude().find(name)
        if found is not None and isinstance(found.item, nodes.OpDef):
            return self.operator_class(found)
        message = f"`{sign}` between graph values needs the operator `{name}`"
        scope.report("E201", message, span, hint="call the operator by its path")
        return None

    # --- families ---

    def family_use(self, scope: Scope, use: nodes.ForFamily) -> FamilyUse | None:
        """The rows of `for (op, $p) in F` under the names that the rule gives them."""
        found = scope.find(use.family)
        if found is None or not isinstance(found.item, nodes.FamilyDef):
            known = [n for n in scope.visible() if _is_family(scope, n)]
            hint = scope.did_you_mean(use.family, known)
            hint = hint or "`family F(op) = relu | gelu` defines one"
            message = f"there is no family `{use.family}`"
            span = Span(use.span.end - len(use.family), use.span.end)
            scope.report("E205", message, span, hint=hint)
            return None
        family = found.item
        if _kinds(use.parameters) != _kinds(family.parameters):
            message = f"`{use.family}` has the parameters {_listed(family.parameters)}"
            notes = (found.note("defined here"),)
            scope.report("E206", message, use.span, notes=notes)
            return None
        rows = self.family_rows(found)
        names = [parameter.id for parameter in use.parameters]
        renamed = tuple(
            attrs.evolve(row, literals=dict(zip(names[1:], literals, strict=True)))
            for row in rows
            if len(literals := tuple(row.literals.values())) == len(names) - 1
        )
        return FamilyUse(names[0], renamed) if renamed else None

    def family_rows(self, definition: Definition) -> tuple[FamilyRow, ...]:
        """The rows of a family that are right; faults of the others are reported."""
        family, scope = definition.item, definition.scope
        assert isinstance(family, nodes.FamilyDef)
        kinds = _kinds(family.parameters)
        if kinds[:1] != ["value"] or "value" in kinds[1:]:
            message = "a family has one operator and then literals, `F(op, $p)`"
            scope.report("E206", message, family.span)
            return ()
        rows = (self._row(scope, family, row) for row in family.rows)
        return tuple(row for row in rows if row is not None)

    def _row(
        self, scope: Scope, family: nodes.FamilyDef, row: nodes.Row
    ) -> FamilyRow | None:
        if len(row.values) != len(family.parameters):
            expected = _listed(family.parameters)
            message = f"this row does not give {expected} one value each"
            scope.report("E206", message, row.span)
            return None
        first, *others = row.values
        operator = self._row_operator(scope, first)
        names = (parameter.id for parameter in family.parameters[1:])
        constants = [constant_value(scope, other) for other in others]
        if operator is None or any(constant is None for constant in constants):
            return None
        values = (constant.value for constant in constants if constant)
        return FamilyRow(operator, dict(zip(names, values, strict=True)), span=row.span)

    def _row_operator(self, scope: Scope, value: nodes.Expr) -> Operator | None:
        if not isinstance(value, nodes.Name):
            message = "the first value of a family's row is an operator"
            scope.report("E206", message, value.span)
            return None
        target = self.callee(scope, value)
        if target is None or isinstance(target, Operator):
            return target
        message = f"`{value.id}` is no operator"
        scope.report("E206", message, value.span)
        return None


@attrs.frozen
class _Constant:
    value: Any


def constant_value(scope: Scope, expr: nodes.Expr) -> _Constant | None:
    """The value of a constant or a list of constants; None: reported."""
    match expr:
        case nodes.Constant(value):
            return _Constant(value)
        case nodes.Name(id) if id in TORCH_CONSTANTS:
            return _Constant(TorchConstant(id))
        case nodes.ListExpr(items):
            found = [constant_value(scope, item) for item in items]
            values = tuple(item.value for item in found if item)
            return _Constant(values) if len(values) == len(items) else None
    scope.report("E206", "a family's row holds constants only", expr.span)
    return None


def _operator_class(definition: Definition) -> Operator | None:
    item, scope = definition.item, definition.scope
    assert isinstance(item, nodes.OpDef)
    spellings = tuple(s for name in item.spellings for s in _signatures(scope, name))
    if not spellings:
        return None
    _check_modules(scope, item, spellings)
    _check_commutes(scope, item, spellings[0])
    _check_when(scope, item, spellings[0])
    return Operator(item.name, spellings, item.commutes, item.when)


def _check_modules(
    scope: Scope, item: nodes.OpDef, spellings: tuple[Signature, ...]
) -> None:
    """Report a module class that does not compute what the first spelling does."""
    wanted = _composition(spellings[0])
    odd = next((s for s in spellings if _composition(s) != wanted), None)
    if odd is not None:
        message = f"`{odd.path}` does not compute what `{spellings[0].path}` does"
        hint = "give it an operator of its own; a family may hold both"
        span = span_of_name(scope.source, item.span, odd.path.removesuffix("+"))
        scope.report("E307", message, span, hint=hint)


def _composition(signature: Signature) -> tuple[str, ...] | None:
    """What a module class computes, if that is no single function."""
    if signature.kind != "module" or len(signature.functions) == 1:
        return None
    # Without a function, nothing says what two classes have in common: state does.
    return signature.functions


def _check_commutes(scope: Scope, item: nodes.OpDef, canonical: Signature) -> None:
    outside = [p for p in item.commutes if canonical.parameter(p) is None]
    if outside:
        message = f"`{canonical.path}` has no operand at position {outside[0]}"
        span = span_of_name(scope.source, item.span, "commutes")
        scope.report("E306", message, span)


def _check_when(scope: Scope, item: nodes.OpDef, canonical: Signature) -> None:
    if item.when is None:
        return
    if not isinstance(item.when, nodes.Compare | nodes.And | nodes.Or | nodes.Not):
        message = "`when` takes a comparison of parameters"
        scope.report("E404", message, item.when.span)
    known = [parameter.name for parameter in canonical.parameters]
    for name in sorted(names_read(item.when)):
        if name not in known:
            message = f"`{name}` is no parameter of `{canonical.path}`"
            span = span_of_name(scope.source, item.when.span, name)
            hint = scope.did_you_mean(name, known)
            scope.report("E202", message, span, hint=hint)


def _signatures(scope: Scope, name: nodes.Name) -> Iterator[Signature]:
    found = scope.catalog.lookup(name.id)
    if not found:
        _report_unknown(scope, name)
    else:
        yield from found


def _report_unknown(scope: Scope, name: nodes.Name) -> None:
    near = _method_hint(scope, name.id) or _similar_operators(scope, name.id)
    hint = near or _grant_hint(name.id)
    scope.report("E201", f"there is no operator `{name.id}`", name.span, hint=hint)


def _method_hint(scope: Scope, path: str) -> str | None:
    """For `x.view`, which is no path of an operator: how the method is called."""
    value, _, method = path.rpartition(".")
    if "." in value or value in {"", *NAMESPACES}:
        return None
    if not scope.catalog.lookup(f".{method}"):
        return None
    callee = method if scope.find(method) is not None else f".{method}"
    return f"a method is called with its value: `{callee}({value}, …)`"


def _grant_hint(path: str) -> str | None:
    """For `acme.f`, which may be an operator of another library."""
    namespace, *names = path.split(".")
    if namespace in {"", *NAMESPACES} or len(names) not in (1, 2):
        return None
    return (
        "an operator of another library is granted by who loads the file: "
        f"`load(…, operators=[torch.ops.{path}])`"
    )


def _similar_operators(scope: Scope, name: str) -> str | None:
    if not scope.findings.may_suggest():
        return None
    near = (
        did_you_mean(name, (*scope.visible(), *FUNCTIONS)) if "." not in name else None
    )
    return near or suggestion(scope.catalog.suggest(name))


def _is_family(scope: Scope, name: str) -> bool:
    found = scope.find(name)
    return found is not None and isinstance(found.item, nodes.FamilyDef)


def _kinds(parameters: tuple[nodes.Name | nodes.LiteralName, ...]) -> list[str]:
    return ["value" if isinstance(p, nodes.Name) else "literal" for p in parameters]


def _listed(parameters: tuple[nodes.Name | nodes.LiteralName, ...]) -> str:
    signs = ("" if isinstance(p, nodes.Name) else "$" for p in parameters)
    texts = (f"{s}{p.id}" for s, p in zip(signs, parameters, strict=True))
    return f"({', '.join(texts)})"
