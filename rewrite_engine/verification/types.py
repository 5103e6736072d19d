"""What the names of a rule stand for in an example, for whoever reads the rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Final

import attrs
import torch
from torch import fx

from rewrite_engine.dsl import checked
from rewrite_engine.errors import RewriteError
from rewrite_engine.matching.match import CapturedCalls, Match
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.driver import Limits
from rewrite_engine.rewriting.folding import Constant
from rewrite_engine.rewriting.run import run
from rewrite_engine.rule_tests import examples_of
from rewrite_engine.tensor_types import UNKNOWN, attribute, recorded
from rewrite_engine.value_text import Symbols, literal_text, type_text
from rewrite_engine.verification.building import build_case
from rewrite_engine.verification.choices import Unsuitable
from rewrite_engine.verification.examples import with_examples
from rewrite_engine.verification.plans import first_choices
from rewrite_engine.verification.samples import RANDOM
from rewrite_engine.verification.subject import Subject

_INSTANCES: Final = 4
_CHOICES: Final = 12


def types_in_rule(
    rule: checked.Rule, tests: Sequence[checked.Test]
) -> Mapping[str, str]:
    """What each name of a rule stands for where it fires: `f32[2, 8]`, or a literal.

    The example is the first test in which the rule fires, else one that is made up as
    for verification. Empty, if there is none.
    """
    subject = with_examples(Subject.of(rule), tests)
    graphs = chain(examples_of(tests), _made_up(subject))
    found = (_types(subject, module) for module in graphs)
    return next(filter(None, found), {})


def _made_up(subject: Subject) -> Iterator[fx.GraphModule]:
    """Left sides that run, each a module of its own."""
    for instance in subject.compiled.instances()[:_INSTANCES]:
        for choice in islice(first_choices(subject, instance), _CHOICES):
            try:
                chosen = attrs.evolve(choice, dtype=torch.float32)
                case = build_case(subject, instance, chosen)
            except Unsuitable:
                continue
            yield case.module(case.values(RANDOM, 0))


def types_in_test(test: checked.Test) -> Mapping[str, str]:
    """The types of the names of a test; none, if its graph does not run."""
    module = next(examples_of([test]), None)
    if module is None:
        return {}
    return _texts(module, {node.name: node for node in module.graph.nodes})


@attrs.define(eq=False)
class _Names:
    """Watches a run, and keeps what the names of the first match stand for."""

    module: fx.GraphModule
    left: Mapping[str, str] = attrs.field(factory=dict)
    right: Mapping[str, Any] = attrs.field(factory=dict)

    def replacing(self, match: Match, built: Built) -> None:
        if not self.left:
            # State that the rewrite leaves unread is gone afterwards.
            self.left, self.right = _texts(self.module, match.bindings), built.names

    def rewritten(self, match: Match) -> None:
        """The names are known by now."""


def _types(subject: Subject, module: fx.GraphModule) -> Mapping[str, str]:
    names = _Names(module)
    with suppress(RewriteError):
        run(
            [subject.program],
            module,
            recurse=False,
            guard=None,
            limits=Limits(),
            watch=lambda state: names,
        )
    return {**_texts(module, names.right), **names.left}


def _texts(module: fx.GraphModule, names: Mapping[str, Any]) -> dict[str, str]:
    texts = ((name, _text(module, value)) for name, value in names.items())
    return {name: text for name, text in texts if text}


def _text(module: fx.GraphModule, value: Any) -> str:
    """A type, or a literal as it is written; empty for what is absent or not known."""
    value = value.root if isinstance(value, CapturedCalls) else value
    if value is None:
        return ""
    if isinstance(value, Constant):
        return type_text(value.exact.to(value.dtype), Symbols())
    if not isinstance(value, fx.Node):
        return literal_text(value, str, Symbols())
    is_state = value.op == "get_attr"
    known = attribute(module, str(value.target)) if is_state else recorded(value)
    return "" if known is UNKNOWN else type_text(known, Symbols())
