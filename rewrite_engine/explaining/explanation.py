"""What an explanation consists of: values, without text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import attrs
from torch import fx

from rewrite_engine.graph_text import Model
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.source import Span

Kind: TypeAlias = Literal[
    "operator",  # another operator
    "dialect",  # the operator, in a spelling that the rule does not cover
    "between",  # an extra call stands in between
    "missing",  # a call of the rule is not there
    "literal",  # another literal
    "operand",  # a value where a literal is expected, or the other way, or nothing
    "argument",  # an argument that the rule does not mention is not at its default
    "order",  # operands the other way round
    "shared",  # another node than the one that has the name
    "list",  # a list of another length
    "optional",  # absent in one place and present in another
    "guard",  # a condition does not hold
    "refused",  # a guard with a reason fails, or rewriting would not be safe
]


@attrs.frozen(eq=False)
class Mismatch:
    """One step of a rule that did not hold.

    `span` is where the rule says it, `nodes` are those of the graph that it is about,
    the one to look at first.
    """

    kind: Kind
    message: str
    span: Span
    nodes: tuple[fx.Node, ...] = ()
    hint: str | None = None


@attrs.frozen(eq=False)
class NearMiss:
    """One place where a rule nearly matched, or matched and was refused.

    `held` of `steps` steps held: operators, literals, names used twice, guards. The
    others are the `mismatches`, in the order of the rule, and what these kept from
    being looked at.
    """

    rule: CompiledRule
    anchor: fx.Node
    held: int
    steps: int
    mismatches: tuple[Mismatch, ...]

    @property
    def first(self) -> Mismatch:
        """The first step that did not hold."""
        return self.mismatches[0]

    @property
    def refused(self) -> bool:
        return self.first.kind == "refused"

    @property
    def score(self) -> float:
        """The share of the rule's steps that held."""
        return self.held / self.steps


@attrs.frozen(eq=False)
class RuleExplanation:
    """What became of one rule.

    `matches` are the anchors that `apply` rewrites, `near_misses` the places that it
    does not, the nearest first; `notes` are remarks about the graph as a whole.
    """

    rule: CompiledRule
    matches: tuple[fx.Node, ...]
    near_misses: tuple[NearMiss, ...]
    notes: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class Explanation:
    """What became of rules on a model; its text is what the command line prints.

    `graphs` are those of the model by the paths of their modules, `""` the outermost.
    `stopped` says why the whole run would be given up, if it would be.
    """

    model: Model = attrs.field(repr=False)
    rules: tuple[RuleExplanation, ...]
    graphs: Mapping[fx.Graph, str] = attrs.field(repr=False)
    stopped: str | None = None

    @property
    def near_misses(self) -> tuple[NearMiss, ...]:
        """The near misses of all rules, the nearest first."""
        found = (miss for rule in self.rules for miss in rule.near_misses)
        return tuple(sorted(found, key=lambda miss: -miss.score))

    def __str__(self) -> str:
        from rewrite_engine.explaining.text import explanation_text

        return explanation_text(self)
