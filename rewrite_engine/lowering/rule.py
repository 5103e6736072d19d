"""A compiled rule: two graphs and how to apply them."""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from torch import fx

from rewrite_engine.dsl import checked
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.instances import Instance, instances, some_instances
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import Operators, build_matcher, guards_of
from rewrite_engine.lowering.replacements import (
    build_replacement,
    follows_from_types,
    names_copied,
    operators_built,
)
from rewrite_engine.source import Source, Span


@attrs.frozen(eq=False, slots=False)
class CompiledRule:
    """A rule as two graphs: `matcher_graph` is found, `replacement_graph` is built.

    Immutable, and safe to share between threads.
    """

    name: str
    source: Source = attrs.field(repr=False)
    span: Span
    """Where the rule stands in its source."""
    doc: str
    matcher_graph: fx.Graph = attrs.field(repr=False)
    _creates: tuple[checked.Create, ...] = attrs.field(repr=False)
    _operators: Operators = attrs.field(repr=False)
    roots: tuple[str, ...]
    meta: tuple[checked.CopyMeta, ...]
    keep: frozenset[str]
    erase: frozenset[str]
    family_literals: tuple[str, ...]
    rows: int
    once: bool
    benefit: int
    tolerance: float | None

    @cached_property
    def place(self) -> str:
        """Where the rule stands: `file.rules:12`."""
        return f"{self.source.name}:{self.source.position(self.span.start).line}"

    @cached_property
    def title(self) -> str:
        """The rule and its place: `fuse (qat.rules:12)`."""
        return f"{self.name} ({self.place})"

    @property
    def source_text(self) -> str:
        """The rule as written."""
        return self.span.of(self.source.text)

    def running(self, *, once: bool) -> CompiledRule:
        """The same rule with the strategy that a phase gives it."""
        return self if self.once is once else attrs.evolve(self, once=once)

    @cached_property
    def replacement_graph(self) -> fx.Graph:
        """What is built, made where the rule first matches."""
        return build_replacement(self._creates, self._operators)

    @property
    def operators_built(self) -> tuple[OperatorPattern, ...]:
        """What the right side calls."""
        built = operators_built(self._creates)
        return tuple(self._operators.pattern(each, builds=True) for each in built)

    @cached_property
    def lists(self) -> tuple[str, ...]:
        """The names that stand for a list, one item for each link of a chain."""
        return tuple(
            name
            for node in self.matcher_graph.find_nodes(op="placeholder")
            if "each" in node.meta
            for name in node.meta["names"]
        )

    @cached_property
    def matcher(self) -> fx.GraphModule:
        """The left side as a module that can be printed and drawn."""
        return fx.GraphModule(torch.nn.Module(), self.matcher_graph, self.name)

    @cached_property
    def replacement(self) -> fx.GraphModule:
        """The right side as a module that can be printed and drawn."""
        return fx.GraphModule(torch.nn.Module(), self.replacement_graph, self.name)

    @cached_property
    def replaced(self) -> tuple[str, ...]:
        """The names `y` for which the rule says what `y'` is."""
        return tuple(self.replacement_graph.output_node().args[0])

    @cached_property
    def builds(self) -> bool:
        """Whether the right side makes calls. If not, values take the place of others,
        and tensors are written, but no matched call moves.
        """
        graph = self.replacement_graph
        stated = [node for node in graph.nodes if "statement" in node.meta]
        return any(
            node.op != "placeholder"
            for node in (*stated, *graph.output_node().args[0].values())
            if node.target not in markers.EVALUATED
        )

    @cached_property
    def is_repeatable(self) -> bool:
        """Whether the literals and types of a match decide what it becomes."""
        return follows_from_types(self.replacement_graph)

    @cached_property
    def is_local(self) -> bool:
        """Whether the calls, literals and types that a search looks at, and what of it
        is constant, decide what it finds and what that becomes.
        """
        return (
            len(self.roots) == 1
            and self.is_repeatable
            and all(guard.is_local for guard in guards_of(self.matcher_graph))
        )

    @cached_property
    def names_copied(self) -> frozenset[str]:
        """The names of calls that the right side makes again, at least in part."""
        return names_copied(self.replacement_graph)

    @cached_property
    def names_read(self) -> frozenset[str]:
        """The names that guards and the right side read, or that are replaced."""
        guards = (guard.reads for guard in guards_of(self.matcher_graph))
        given = self.replacement_graph.find_nodes(op="placeholder")
        read = (str(node.target) for node in given)
        return frozenset().union(*guards, read, self.replaced)

    def instances(self, most: int | None = None) -> tuple[Instance, ...]:
        """Every concrete, runnable pair, for all rows, options and alternatives; or at
        most so many of them, from all over the rule.
        """
        graphs = self.matcher_graph, self.replacement_graph
        if most is None:
            return tuple(instances(self.name, *graphs))
        return some_instances(self.name, *graphs, most)


def compile_rule(rule: checked.Rule) -> CompiledRule:
    """Build a rule's graphs, from its text and never by tracing.

    Raises: LookupError if the library of an operator that is built is not installed.
    """
    operators = Operators(rule)
    for operator in operators_built(rule.creates):
        operators.pattern(operator, builds=True)
    matcher = build_matcher(rule, operators)
    literals = tuple(rule.family.rows[0].literals) if rule.family else ()
    return CompiledRule(
        rule.name,
        rule.source,
        rule.span,
        rule.doc,
        matcher,
        rule.creates,
        operators,
        rule.roots,
        rule.meta,
        rule.keep,
        rule.erase,
        literals,
        len(rule.family.rows) if rule.family else 1,
        rule.once,
        _benefit(rule, matcher),
        rule.tolerance,
    )


def _benefit(rule: checked.Rule, matcher: fx.Graph) -> int:
    """Larger patterns first, unless the rule says otherwise."""
    if rule.benefit is not None:
        return rule.benefit
    return sum(isinstance(node.target, OperatorPattern) for node in matcher.nodes)
