"""Random graphs that hold an instance of a rule, among calls that get in its way."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import attrs
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from rewrite_engine.lowering.instances import Instance
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.building import build_case
from rewrite_engine.verification.cases import Case
from rewrite_engine.verification.choices import Choice, Unsuitable
from rewrite_engine.verification.examples import example_cases, with_examples
from rewrite_engine.verification.noise import RESIZING, Maker, Noise
from rewrite_engine.verification.operands import is_ambiguous
from rewrite_engine.verification.plans import first_choices, spread
from rewrite_engine.verification.planted import Planted
from rewrite_engine.verification.samples import RANDOM
from rewrite_engine.verification.spellings import calls_of
from rewrite_engine.verification.subject import Subject
from rewrite_engine.verification.trials import tolerance_of, try_case
from rewrite_engine.verification.verify import quiet

_INSTANCES: Final = 24
"""Instances of a rule that are planted, from all over it."""


_READ: Final = (torch.float64, torch.float32)
"""What noise reads: not what is rounded, nor what quantizers give."""


class Planter:
    """Plants the instances of one rule of a rule set."""

    def __init__(self, rules: RuleSet, rule: str) -> None:
        self.rules = rules
        self.rule = rule
        checked = next(each for each in rules.file.rules if each.name == rule)
        self._subject = with_examples(Subject.of(checked), rules.tests)
        self._base = functools.cache(self._find_base)
        self._case = functools.cache(self._find_case)

    @property
    def fires(self) -> bool:
        """Whether left sides are known on which the rule fires."""
        numbers = range(len(self._instances))
        return any(self._base(number) is not None for number in numbers)

    @cached_property
    def _instances(self) -> Sequence[Instance]:
        some = self._subject.compiled.instances(4 * _INSTANCES)
        usual = [each for each in some if not is_ambiguous(each.left, calls_of(each))]
        return spread(usual, _INSTANCES)

    def _find_base(self, number: int) -> Case | None:
        """The left side of an instance on which the rule fires, in double precision if
        it can be; else a test in which it does.
        """
        instance = self._instances[number]
        for choice in first_choices(self._subject, instance):
            case = self._firing(instance, choice)
            if case is not None:
                return case
        examples = example_cases(self.rules.tests, instance)
        claimed = self._subject.rule.when is None
        found = next(filter(self._fires, examples), None)
        return None if found is None else attrs.evolve(found, claimed=claimed)

    def _find_case(self, number: int, variant: int) -> Case | None:
        """The same, of another size or layout if the rule fires on that, too."""
        base = self._base(number)
        if base is None or base.is_example or variant == 0:
            return base
        other = _others(base.choice)[variant - 1]
        return self._firing(base.instance, other) or base

    def _firing(self, instance: Instance, choice: Choice) -> Case | None:
        try:
            case = build_case(self._subject, instance, choice)
        except Unsuitable:
            return None
        return case if self._fires(case) else None

    def _fires(self, case: Case) -> bool:
        return try_case(self._subject, case, 0, (RANDOM,)).fired

    def plant(self, seed: int, noise: Noise) -> Planted | None:
        """A graph, the same for the same seed; None if it does not run."""
        chosen = random.Random(seed)
        case = self._chosen(chosen)
        if case is None:
            return None
        garden = _Garden(chosen, case, case.values(RANDOM, seed), noise)
        module, inputs = garden.grow()
        try:
            recorded = _recorded(module, inputs)
        except RuntimeError:
            return None
        if chosen.random() < 0.7:
            for node, value in zip(module.graph.nodes, recorded, strict=True):
                node.meta["val"] = value
        claimed = tolerance_of(self._subject.rule.tolerance, case)
        tolerance = claimed if case.claimed else None
        observers = tuple(path for path, made in case.modules.items() if made.watches)
        return Planted(
            self.rules, self.rule, module, tuple(inputs), tolerance, observers
        )

    def _chosen(self, chosen: random.Random) -> Case | None:
        numbers = list(range(len(self._instances)))
        chosen.shuffle(numbers)
        variant = chosen.randint(0, _VARIANTS)
        with quiet():
            cases = (self._case(number, variant) for number in numbers)
            return next((case for case in cases if case is not None), None)


def _recorded(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> list[Any]:
    """The types of the values of all nodes in a run, which leaves everything as it is.

    Strides are those that operators really give; some say others of fake tensors.
    """
    found, fakes = [], FakeTensorMode()

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            fake = pytree.tree_map_only(torch.Tensor, fakes.from_tensor, value)
            found.append(fake)
            return value

    copied = copy.deepcopy(module)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        Recorder(copied, garbage_collect_values=False).run(
            *(tensor.clone() for tensor in inputs)
        )
    return found


_VARIANTS: Final = 4


def _others(choice: Choice) -> tuple[Choice, ...]:
    """As many as there are variants."""
    empty, single = (attrs.evolve(choice.sizes, batch=batch) for batch in (0, 1))
    return (
        attrs.evolve(choice, sizes=empty, example=None),
        attrs.evolve(choice, sizes=single, example=None),
        attrs.evolve(choice, layout="transposed"),
        attrs.evolve(choice, dtype=torch.int64),
    )


@attrs.define(eq=False)
class _Garden:
    """One graph while it grows: calls of the left side in order, noise in between."""

    chosen: random.Random
    case: Case
    values: Mapping[str, torch.Tensor]
    noise: Noise
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    order: list[fx.Node] = attrs.field(init=False)
    known: dict[fx.Node, torch.Tensor] = attrs.field(factory=dict)
    """Nodes with floating-point values that noise may read, and example values."""
    noisy: list[fx.Node] = attrs.field(factory=list)
    reads_inside: bool = attrs.field(init=False)
    """Whether noise may read what the rule removes, so that it hardly ever fires."""

    @reads_inside.default
    def _half(self) -> bool:
        return self.chosen.random() < 0.5

    @order.default
    def _shuffled(self) -> list[fx.Node]:
        """The inputs in another order, arguments first."""
        inputs = list(self.case.graph.find_nodes(op="placeholder"))
        state = [n for n in self.case.graph.nodes if n.op == "get_attr"]
        self.chosen.shuffle(inputs)
        self.chosen.shuffle(state)
        return inputs + state

    def grow(self) -> tuple[fx.GraphModule, list[torch.Tensor]]:
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.order:
            copies[node] = self._input(node)
        calls = [n for n in self.case.graph.nodes if n.op.startswith("call")]
        kinds = self.noise.kinds(self.chosen)
        slots: list[list[Sequence[Maker]]] = [[] for _ in range(len(calls) + 1)]
        for kind in kinds:
            self.chosen.choice(slots).append(kind)
        for kind in slots[0]:
            self._disturb(kind)
        for call, later in zip(calls, slots[1:], strict=True):
            copies[call] = self.graph.node_copy(call, copies.__getitem__)
            copies[call].meta.clear()
            self._know(copies[call], call)
            for kind in later:
                self._disturb(kind)
        self._output([copies[node] for node in self._roots])
        module = fx.GraphModule(self.case.module(self.values), self.graph)
        names = [n.target for n in self.graph.find_nodes(op="placeholder")]
        return module, [self.values[str(name)] for name in names]

    def _input(self, node: fx.Node) -> fx.Node:
        made = self.graph.node_copy(node)
        made.meta.clear()
        if node.op == "placeholder":
            value = self.values[str(node.target)]
            if value.dtype in _READ:
                self.known[made] = value
        return made

    @property
    def _roots(self) -> list[fx.Node]:
        return pytree.tree_leaves(self.case.graph.output_node().args)

    def _know(self, made: fx.Node, call: fx.Node) -> None:
        value = call.meta.get("val")
        is_hidden = not self.reads_inside and call not in self._roots
        if isinstance(value, torch.Tensor) and value.dtype in _READ and not is_hidden:
            self.known[made] = value

    def _disturb(self, makers: Sequence[Maker]) -> None:
        usable = [n for n, v in self.known.items() if v.dim() and v.shape[0]]
        if not usable:
            return
        source = self.chosen.choice(usable)
        maker = self.chosen.choice(makers)
        made = maker(self.graph, source, self.known[source])
        if maker not in RESIZING:
            self.known[made] = self.known[source]
        self.noisy.append(made)

    def _output(self, roots: list[fx.Node]) -> None:
        extra = list(self.noisy)
        self.chosen.shuffle(extra)
        extra = extra[: self.chosen.randint(0, len(extra))]
        known = [node for node in self.known if node not in roots]
        if known and self.chosen.random() < 0.3 * self.noise.readers:
            extra.append(self.chosen.choice(known))
        self.graph.output((*roots, *extra))
