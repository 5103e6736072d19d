"""Whether a call fits the schema of what it calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Operator
from rewrite_engine.dsl.scopes import Scope, counted, did_you_mean
from rewrite_engine.errors import Note
from rewrite_engine.signatures import REQUIRED, Parameter, Signature
from rewrite_engine.source import Span

LEFT_HINT: Final = "`..` stands for all operands that are not mentioned"
RIGHT_HINT: Final = "`..y` takes the other operands of a matched `y`"


_SYNONYMS: Final = {"axis": "dim", "axes": "dim"}
"""Parameters as numpy calls them."""


@attrs.frozen
class _Fault:
    code: str
    message: str
    span: Span
    hint: str | None = None


def fit(
    scope: Scope, operator: Operator, call: nodes.Call, hint: str = LEFT_HINT
) -> Operator:
    """The operator with the overload first that takes the operands as written.

    Only overloads of the first spelling's operator are tried: its parameters are what
    a rule's keywords name. If none fits, the faults are reported; `hint` says how to
    leave operands out.
    """
    keywords = tuple([keyword.name for keyword in call.keywords])
    shape = len(call.args), keywords, call.rest is not None
    if shape not in operator.fitting:
        operator.fitting[shape] = _fitting_overload(operator, call)
    position = operator.fitting[shape]
    if position is not None:
        return operator.with_first(position)
    first = operator.spellings[0]
    other = _taking(scope, first, call)
    for fault in _faults(first, call):
        notes = (Note(f"the schema is {schema_text(first)}"),)
        advice = fault.hint or other or (hint if fault.code == "E303" else None)
        scope.report(fault.code, fault.message, fault.span, notes=notes, hint=advice)
    return operator


def _taking(scope: Scope, signature: Signature, call: nodes.Call) -> str | None:
    """The advice to call the overload of an operator that takes a call as written."""
    for other in scope.catalog.lookup(_family_name(signature)):
        if next(_faults(other, call), None) is None:
            return f"`{other.path}` takes the operands as written"
    return None


def schema_text(signature: Signature) -> str:
    """The signature as torch writes schemas: `aten.relu.default(Tensor self)`."""
    parts: list[str] = []
    for parameter in signature.parameters:
        if parameter.keyword_only and "*" not in parts:
            parts.append("*")
        parts.append(_parameter_text(parameter))
    return f"{signature.path}({', '.join(parts)})"


def _parameter_text(parameter: Parameter) -> str:
    text = f"{parameter.type} {parameter.name}".strip()
    if parameter.default is REQUIRED:
        return text
    return f"{text}={parameter.default!r}"


def _overloads(operator: Operator) -> Iterator[tuple[int, Signature]]:
    """The overloads of the first spelling's operator, and their positions."""
    first = _family_name(operator.spellings[0])
    for position, signature in enumerate(operator.spellings):
        if _family_name(signature) == first:
            yield position, signature


def _fitting_overload(operator: Operator, call: nodes.Call) -> int | None:
    """The position of the first overload that takes the operands as written."""
    for position, signature in _overloads(operator):
        if next(_faults(signature, call), None) is None:
            return position
    return None


def _family_name(signature: Signature) -> str:
    if signature.kind == "overload":
        return signature.path.rpartition(".")[0]
    return signature.path


def _faults(signature: Signature, call: nodes.Call) -> Iterator[_Fault]:
    positional = [p.name for p in signature.positional]
    if len(call.args) > len(positional):
        count = counted(len(positional), "positional operand")
        message = f"`{signature.path}` takes {count}, not {len(call.args)}"
        yield _Fault("E301", message, call.args[len(positional)].span)
    given = positional[: len(call.args)]
    for keyword in call.keywords:
        yield from _keyword_faults(signature, keyword, given)
        given.append(keyword.name)
    if call.rest is None and all(signature.parameter(k.name) for k in call.keywords):
        # A wrong keyword is mostly the one that is missing.
        yield from _missing(signature, call, given)


def _keyword_faults(
    signature: Signature, keyword: nodes.Keyword, given: list[str]
) -> Iterator[_Fault]:
    span = keyword.span.first(len(keyword.name))
    known = [parameter.name for parameter in signature.parameters]
    if keyword.name not in known:
        message = f"`{signature.path}` has no parameter `{keyword.name}`"
        meant = _SYNONYMS.get(keyword.name, keyword.name)
        yield _Fault("E302", message, span, did_you_mean(meant, known))
    elif keyword.name in given:
        yield _Fault("E304", f"`{keyword.name}` is given twice", span)


def _missing(
    signature: Signature, call: nodes.Call, given: list[str]
) -> Iterator[_Fault]:
    required = [p.name for p in signature.parameters if p.default is REQUIRED]
    missing = [f"`{name}`" for name in required if name not in given]
    if missing:
        message = f"the call of `{signature.path}` lacks {', '.join(missing)}"
        yield _Fault("E303", message, call.span)
