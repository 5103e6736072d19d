"""The rule that is verified, and what its text says about the values it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import fx

from rewrite_engine import torch_ops
from rewrite_engine.dsl import checked, nodes
from rewrite_engine.dsl.walk import names_read
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.guards import Condition, compile_expr
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.patterns import below
from rewrite_engine.lowering.rule import CompiledRule, compile_rule
from rewrite_engine.lowering.scope import Evaluate, Unknown
from rewrite_engine.matching.automaton import build_program
from rewrite_engine.matching.program import Program
from rewrite_engine.verification.literals import literals_of


@attrs.frozen
class Given:
    """What is known of a name: the types that a guard demands, or that a test has."""

    dtypes: tuple[torch.dtype, ...] = ()
    dims: tuple[nodes.Expr, ...] | None = None
    """The shape in a guard: numbers, names and `*S`."""
    shape: tuple[int, ...] | None = None
    """The shape in a test."""


@attrs.frozen
class Example:
    """What the names of a rule stand for where a `test` block matches it."""

    row: int
    types: Mapping[str, Given]
    literals: Mapping[str, Any]


@attrs.frozen(eq=False, slots=False)
class Subject:
    """A rule, compiled so that it fires once a place and that its guards are watched.

    `decided` gives, by the text of each guard, the answers that it has had.
    """

    rule: checked.Rule
    compiled: CompiledRule
    program: Program
    decided: Mapping[str, set[bool]]
    types: Mapping[str, Given]
    """What the guards demand."""
    examples: tuple[Example, ...] = ()

    @classmethod
    def of(cls, rule: checked.Rule, without: checked.Guard | None = None) -> Subject:
        """The subject of a rule, or of the rule without one of its guards."""
        guards = tuple(guard for guard in rule.guards if guard is not without)
        # A rule that matches what it builds must not go on: one place is judged.
        rule = attrs.evolve(rule, guards=guards, once=True)
        compiled = compile_rule(rule)
        decided = dict(_watch(compiled.matcher_graph))
        types = dict(_types_of(rule))
        return cls(rule, compiled, build_program([compiled]), decided, types)

    def role(self, name: str) -> str | None:
        """`value`, `literal` or `others`; None for an operand the rule leaves open."""
        return self._roles.get(name) or self._roles.get(self._of_link(name))

    def _of_link(self, name: str) -> str:
        """The name in a chain that an input such as `k_0` stands for in one link."""
        return re.sub(r"_\d+$", "", name)

    @cached_property
    def _roles(self) -> Mapping[str, str]:
        inputs = self.compiled.matcher_graph.find_nodes(op="placeholder")
        return {str(node.target): node.meta["role"] for node in inputs}

    @property
    def reads_state(self) -> bool:
        """Whether the right side holds values that are computed from state."""
        return any(True for _ in _read_now(self.compiled.replacement_graph))

    def constants(self, instance: Instance) -> frozenset[str]:
        """The inputs of an instance that must be state of the module."""
        inputs = {n.target: n for n in instance.left.find_nodes(op="placeholder")}
        found: set[str] = set()
        for name in {*_claimed(self.rule), *_read_now(self.compiled.replacement_graph)}:
            root = inputs.get(name, instance.calls.get(name))
            found |= {str(n.target) for n in below(root) if n.op == "placeholder"}
        return frozenset(found)

    @cached_property
    def positive(self) -> frozenset[str]:
        """The values that a guard demands to be positive."""
        exprs = _demanded(self.rule)
        return frozenset(n for e in exprs if (n := _argument_of(e, "positive")))

    @cached_property
    def axes(self) -> Mapping[str, Evaluate]:
        """The axis of the values that a guard demands to have one: all their elements
        lie along it, `numel(s) == size(s, axis)`.
        """
        found = {}
        for expr in _demanded(self.rule):
            match expr:
                case nodes.Compare("==", count, nodes.Call(args=(_, axis)) as size):
                    name = _argument_of(size, "size")
                    if name is not None and name == _argument_of(count, "numel"):
                        found[name] = compile_expr(axis)
        return found

    def equations(self, name: str) -> Iterator[Equation]:
        """What a literal may be computed from, where guards compare it."""
        for expr in _parts(guard.expr for guard in self.rule.guards):
            if isinstance(expr, nodes.Compare) and expr.operator == "==":
                for left, right in ((expr.left, expr.right), (expr.right, expr.left)):
                    factor = _cofactor(left, name)
                    if factor is not None and not isinstance(right, nodes.Constant):
                        sides = compile_expr(right), compile_expr(factor)
                        yield Equation(*sides, names_read(right))

    def domains(self, instance: Instance) -> dict[str, tuple[Any, ...]]:
        """The literals worth trying for each literal input of an instance."""
        compared = _compared(self.rule)
        found: dict[str, tuple[Any, ...]] = {}
        for name, parameter in _literal_inputs(self, instance):
            if self.role(name) is None and self.role(parameter.name) == "literal":
                continue  # it follows the one that has its name
            examples = [e for e in self.examples if name in e.literals]
            examples.sort(key=lambda e: e.row != instance.row)
            known = [example.literals[name] for example in examples]
            values = [*known, *literals_of(parameter), *compared.get(name, ())]
            found[name] = tuple({(type(v), repr(v)): v for v in values}.values())
        return found


def _argument_of(expr: nodes.Expr, function: str) -> str | None:
    """The name that a function is asked about, if it is."""
    match expr:
        case nodes.Call(nodes.Name(id), (nodes.Name(name), *_)) if id == function:
            return name
    return None


@attrs.frozen
class Equation:
    """A literal is `product / factor`; lists have the factor 1."""

    product: Evaluate
    factor: Evaluate
    names: frozenset[str]
    """The values that the product depends on."""

    def solve(self, scope: Any) -> Any:
        """The literal. Raises: Unknown."""
        product, factor = self.product(scope), self.factor(scope)
        if factor == 1:
            return product
        are_numbers = isinstance(product, int) and isinstance(factor, int)
        if not are_numbers or not factor or product % factor:
            raise Unknown("no whole number")
        return product // factor


def _cofactor(expr: nodes.Expr, name: str) -> nodes.Expr | None:
    """What a literal is multiplied with in a product that holds it once."""
    match expr:
        case nodes.LiteralName(id) if id == name:
            return nodes.Constant(1)
        case nodes.Infix("*", left, right):
            for one, other in ((left, right), (right, left)):
                rest = _cofactor(one, name)
                if rest is not None:
                    return nodes.Infix("*", rest, other)
    return None


def _literal_inputs(subject: Subject, instance: Instance) -> Iterator[tuple[str, Any]]:
    """The literal inputs of an instance, each with a parameter that takes it."""
    for node, spelling in instance.spellings.items():
        bound = spelling.signature.bind(node.args, node.kwargs) or {}
        for name, value in bound.items():
            parameter = spelling.signature.parameter(name)
            assert parameter is not None
            for operand in inputs_in(value):
                role = subject.role(str(operand.target))
                open_literal = role is None and not parameter.takes_tensor
                if role == "literal" or open_literal:
                    yield str(operand.target), parameter


def inputs_in(value: Any) -> list[fx.Node]:
    """The inputs of a graph inside an argument."""
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return [node for node in found if node.op == "placeholder"]


# --- guards ---


def _watch(matcher: fx.Graph) -> Iterator[tuple[str, set[bool]]]:
    """Note the answers of every guard of a matcher."""
    for node in matcher.nodes:
        if "guard" in node.meta:
            guard: Condition = node.meta["guard"]
            answers: set[bool] = set()
            watched = _watched(guard.evaluate, answers)
            node.meta["guard"] = attrs.evolve(guard, evaluate=watched)
            yield guard.text, answers


def _watched(evaluate: Callable[[Any], Any], answers: set[bool]) -> Callable[..., Any]:
    def watched(scope: Any) -> Any:
        try:
            answer = evaluate(scope)
        except Unknown:
            answers.add(False)
            raise
        answers.add(bool(answer))
        return answer

    return watched


def _types_of(rule: checked.Rule) -> Iterator[tuple[str, Given]]:
    for expr in _demanded(rule):
        if isinstance(expr, nodes.HasType):
            dtypes = tuple(map(torch_ops.dtype_of, expr.type.dtypes))
            yield expr.id, Given(dtypes, expr.type.shape)


def _claimed(rule: checked.Rule) -> Iterator[str]:
    """The names that a guard demands to be constant."""
    for expr in _demanded(rule):
        if isinstance(expr, nodes.IsConst):
            yield expr.id


def _demanded(rule: checked.Rule) -> Iterator[nodes.Expr]:
    """The conditions that all must hold."""
    todo = [guard.expr for guard in rule.guards]
    while todo:
        expr = todo.pop()
        if isinstance(expr, nodes.And):
            todo += [expr.left, expr.right]
        else:
            yield expr


def _compared(rule: checked.Rule) -> dict[str, list[Any]]:
    """Literals on both sides of every comparison with a constant in a guard."""
    found: dict[str, list[Any]] = {}
    for expr in _parts(guard.expr for guard in rule.guards):
        if isinstance(expr, nodes.Compare):
            for name, other in ((expr.left, expr.right), (expr.right, expr.left)):
                if isinstance(name, nodes.LiteralName) and isinstance(
                    other, nodes.Constant
                ):
                    found.setdefault(name.id, []).extend(_around(other.value))
    return found


def _around(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [value, not value]
    if isinstance(value, int):
        return [value, value + 1, value - 1]
    return [value]


def _parts(exprs: Iterable[nodes.Expr]) -> Iterator[nodes.Expr]:
    todo = list(exprs)
    while todo:
        expr = todo.pop()
        yield expr
        match expr:
            case nodes.And(left, right) | nodes.Or(left, right):
                todo += [left, right]
            case nodes.Not(value):
                todo.append(value)


def _read_now(replacement: fx.Graph) -> Iterator[str]:
    """The names whose values are read while rules are applied."""
    for node in replacement.nodes:
        if node.target in markers.EVALUATED:
            yield from _operands(node)


def _operands(node: fx.Node) -> Iterator[str]:
    """The names below a node, but for those that only literals are computed from."""
    todo = [node]
    while todo:
        current = todo.pop()
        if current.op == "placeholder":
            yield str(current.target)
        elif current.target is not markers.computed:
            todo += current.all_input_nodes
