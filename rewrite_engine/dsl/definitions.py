"""Operator classes, families and patterns, checked whether or not a rule uses them."""

from __future__ import annotations

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Variable
from rewrite_engine.dsl.left_names import Frame, LeftNames
from rewrite_engine.dsl.names import parameter_key
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.dsl.resolver import check_duplicates, report_unused
from rewrite_engine.dsl.scopes import Definition
from rewrite_engine.dsl.terms import Left
from rewrite_engine.dsl.walk import names_read


def check_definition(definition: Definition, operators: Operators) -> None:
    """Report what is wrong with an operator class, family or pattern, used or not."""
    match definition.item:
        case nodes.OpDef():
            operators.operator_class(definition)
        case nodes.FamilyDef(parameters=parameters):
            check_duplicates(definition.scope, parameters)
            operators.family_rows(definition)
        case nodes.PatternDef():
            _check_pattern(definition, definition.item, operators)


def _check_pattern(
    definition: Definition, item: nodes.PatternDef, operators: Operators
) -> None:
    scope = definition.scope
    check_duplicates(scope, item.parameters)
    read = names_read(item.value)
    for parameter in item.parameters:
        if parameter.id not in read and not parameter.id.startswith("_"):
            report_unused(scope, parameter)
    parameters = {
        parameter_key(parameter): Variable(parameter.id)
        for parameter in item.parameters
        if isinstance(parameter, nodes.Name)
    }
    names = LeftNames(item.span.of(scope.source.text))
    frame = Frame(scope, parameters, expanding=(definition,))
    Left(scope, operators, names).term(item.value, frame)
