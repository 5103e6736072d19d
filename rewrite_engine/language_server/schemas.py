"""Signatures of what a call calls, as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.scopes import Scope
from rewrite_engine.signatures import REQUIRED, Parameter, Signature


def signatures(scope: Scope, callee: str, item_text: str = "") -> tuple[Signature, ...]:
    """The signatures of a path, an operator class, or the operator of a rule's family.

    `item_text` is the rule in which the callee stands; it need not parse.
    """
    found = scope.find(callee)
    if "." in callee or found is None:
        rows = _slot_rows(scope, callee, item_text)
        return rows or scope.catalog.lookup(callee)
    return tuple(_of_item(scope, found.item))


def _of_item(scope: Scope, item: nodes.Item) -> Iterator[Signature]:
    match item:
        case nodes.OpDef(spellings=spellings):
            for name in spellings:
                # `nn.Conv2d+` is that class and its subclasses.
                yield from scope.catalog.lookup(name.id.removesuffix("+"))
        case nodes.FamilyDef(rows=rows):
            for row in rows:
                if isinstance(row.values[0], nodes.Name):
                    yield from signatures(scope, row.values[0].id)


def _slot_rows(scope: Scope, callee: str, item_text: str) -> tuple[Signature, ...]:
    head = item_text.partition("{")[0]
    used = re.search(rf"\bfor\s*\(?\s*{re.escape(callee)}\b[^{{]*?\bin\s+(\w+)", head)
    family = scope.find(used[1]) if used else None
    return tuple(_of_item(scope, family.item)) if family is not None else ()


def signature_text(signature: Signature) -> str:
    """`aten.add.Tensor(self: Tensor, other: Tensor, *, alpha: Scalar = 1)`."""
    parts: list[str] = []
    for parameter in signature.parameters:
        if parameter.keyword_only and "*" not in parts:
            parts.append("*")
        parts.append(parameter_text(parameter))
    returned = f" -> {signature.returns} results" if signature.returns != 1 else ""
    return f"{signature.path}({', '.join(parts)}){returned}"


def parameter_text(parameter: Parameter) -> str:
    """`alpha: Scalar = 1`."""
    declared = f": {parameter.type}" if parameter.type else ""
    if parameter.default is REQUIRED:
        return f"{parameter.name}{declared}"
    return f"{parameter.name}{declared} = {literal_text(parameter.default)}"


def literal_text(value: Any) -> str:
    """A default as a rule file writes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(literal_text, value))}]"
    return str(value)
