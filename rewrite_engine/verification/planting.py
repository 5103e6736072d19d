"""Random graphs that hold an instance of a rule, among calls that get in its way."""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias

import attrs
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from rewrite_engine import equivalence
from rewrite_engine.graph_text import graph_text
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.building import build_case
from rewrite_engine.verification.cases import Case
from rewrite_engine.verification.choices import Choice, Unsuitable
from rewrite_engine.verification.examples import with_examples
from rewrite_engine.verification.plans import first_choices, spread
from rewrite_engine.verification.samples import RANDOM
from rewrite_engine.verification.subject import Subject
from rewrite_engine.verification.trials import tolerance_of, try_case
from rewrite_engine.verification.verify import quiet

aten = torch.ops.aten

_INSTANCES: Final = 24
"""Instances of a rule that are planted, from all over it."""


@attrs.frozen
class Noise:
    """What is put around an instance: how many calls of each kind, at most.

    `pure` calls compute new values, `views` share storage, `writes` are in place,
    `random` calls draw random numbers, `readers` are outputs beside those of the rule.
    """

    pure: int = 4
    views: int = 2
    writes: int = 0
    random: int = 0
    readers: int = 1


@attrs.frozen(eq=False)
class Planted:
    """A graph with an instance of a rule in it, and inputs for it."""

    rules: RuleSet
    rule: str
    module: fx.GraphModule = attrs.field(repr=False)
    inputs: tuple[torch.Tensor, ...] = attrs.field(repr=False)
    tolerance: float | None
    """What the rule claims for this instance; None if it claims nothing."""

    def check(self) -> int:
        """Apply the rules to a copy and assert that it is right; how often they fired.

        The copy is sound, its recorded values are those of a real run, it computes what
        the original does, input writes and random numbers included, as exactly as the
        rule claims, no tensor that it had was written, and a second application changes
        nothing.
        """
        module = copy.deepcopy(self.module)
        before, text = dict(_state(module)), graph_text(module)
        values = {name: tensor.detach().clone() for name, tensor in before.items()}
        result = self.rules.apply(module)
        module.graph.lint()
        after = dict(_state(module))
        is_other = any(after.get(name) is not t for name, t in before.items())
        is_modified = is_other or graph_text(module) != text
        _insist(result.modified == is_modified, "`modified` is wrong")
        assert_recorded(module, self.inputs)
        written = [n for n, t in before.items() if not _same_bits(t, values[n])]
        _insist(not written, f"written in place: {written}")
        if self.tolerance is not None:
            equivalence.assert_equivalent(
                self.module, module, self.inputs, rtol=self.tolerance
            )
        if not self.rules[self.rule].once:  # such a rule may match what it builds
            text = graph_text(module)
            again = self.rules.apply(module)
            is_final = not again.modified and graph_text(module) == text
            _insist(is_final, "a second application changes the graph again")
        return sum(r.matches for r in result.report.rules if r.name == self.rule)


def assert_recorded(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Assert that the values that nodes record have the types of a real run."""
    faults: list[str] = []

    class Checker(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            recorded = n.meta.get("val")
            if isinstance(recorded, torch.Tensor) and isinstance(value, torch.Tensor):
                expected = (value.dtype, value.shape, _used_strides(value))
                found = (recorded.dtype, recorded.shape, _used_strides(recorded))
                if found != expected:
                    faults.append(f"{n}: {found} recorded, {expected} run")
            return value

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        Checker(copy.deepcopy(module)).run(*(tensor.clone() for tensor in inputs))
    _insist(not faults, "\n".join(faults))


def _insist(holds: bool, message: str) -> None:
    # No `assert`: users run these checks under `python -O`, too.
    if not holds:
        raise AssertionError(message)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _used_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    if tensor.numel() == 0:
        return ()
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(stride for size, stride in pairs if size > 1)


def _state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


class Planter:
    """Plants the instances of one rule of a rule set."""

    def __init__(self, rules: RuleSet, rule: str) -> None:
        self.rules = rules
        self.rule = rule
        checked = next(each for each in rules.file.rules if each.name == rule)
        self._subject = with_examples(Subject.of(checked), rules.tests)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Left sides in double precision on which the rule fires, one an instance."""
        # Observers record what noise changes as well.
        every = self._subject.compiled.instances()
        functions = [each for each in every if each.calls_functions]
        instances = spread(functions, _INSTANCES)
        with quiet():
            return tuple(case for each in instances for case in self._fitting(each))

    def _fitting(self, instance: Instance) -> Iterator[Case]:
        """The first case that fires, and what fires of other sizes and layouts."""
        for choice in first_choices(self._subject, instance):
            case = self._firing(instance, choice)
            if case is None:
                continue
            yield case
            for other in _others(choice):
                found = self._firing(instance, other)
                if found is not None:
                    yield found
            return

    def _firing(self, instance: Instance, choice: Choice) -> Case | None:
        try:
            case = build_case(self._subject, instance, choice)
        except Unsuitable:
            return None
        return case if try_case(self._subject, case, 0, (RANDOM,)).fired else None

    def plant(self, seed: int, noise: Noise) -> Planted | None:
        """A graph, the same for the same seed; None if it does not run."""
        chosen = random.Random(seed)
        case = chosen.choice(self.cases)
        values = case.values(RANDOM, seed)
        garden = _Garden(chosen, case, values, noise)
        module, inputs = garden.grow()
        try:
            with torch.no_grad():
                copy.deepcopy(module)(*(tensor.clone() for tensor in inputs))
                if chosen.random() < 0.7:
                    fakes = FakeTensorMode(allow_non_fake_inputs=True)
                    FakeTensorProp(module, fakes).propagate(*inputs)
        except RuntimeError:
            return None
        claimed = tolerance_of(self._subject.rule.tolerance, case)
        tolerance = claimed if case.claimed else None
        return Planted(self.rules, self.rule, module, tuple(inputs), tolerance)


def _others(choice: Choice) -> Iterator[Choice]:
    for batch in (0, 1):
        sizes = attrs.evolve(choice.sizes, batch=batch)
        yield attrs.evolve(choice, sizes=sizes, example=None)
    yield attrs.evolve(choice, layout="transposed")
    yield attrs.evolve(choice, dtype=torch.int64)


_Maker: TypeAlias = Callable[[fx.Graph, fx.Node, torch.Tensor], fx.Node]


def _call(target: Any, *args: Any) -> _Maker:
    return lambda graph, node, value: graph.call_function(target, (node, *args))


_PURE: Final[Sequence[_Maker]] = (
    _call(aten.neg.default),
    _call(aten.mul.Tensor, 0.5),
    _call(aten.sigmoid.default),
    _call(aten.clone.default),
    _call(torch.tanh),
    _call(operator.add, 1),
    lambda graph, node, value: graph.call_method("abs", (node,)),
)
_VIEWS: Final[Sequence[_Maker]] = (
    _call(aten.alias.default),
    _call(aten.detach.default),
    lambda graph, node, value: graph.call_function(
        aten.reshape.default, (node, list(value.shape))
    ),
    lambda graph, node, value: graph.call_method("view_as", (node, node)),
    lambda graph, node, value: graph.call_function(
        aten.slice.Tensor, (node, 0, 0, max(1, value.shape[0] - 1))
    ),
    lambda graph, node, value: graph.call_function(
        aten.transpose.int, (node, 0, value.dim() - 1)
    ),
)
_WRITES: Final[Sequence[_Maker]] = (
    _call(aten.add_.Tensor, 0.25),
    _call(aten.mul_.Tensor, 1.5),
    _call(aten.relu_.default),
    _call(operator.iadd, 1.0),
    lambda graph, node, value: graph.call_method("mul_", (node, 0.5)),
    lambda graph, node, value: graph.call_function(aten.copy_.default, (node, node)),
)
_RANDOM: Final[Sequence[_Maker]] = (
    _call(aten.dropout.default, 0.5, True),
    _call(aten.rand_like.default),
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
        kinds = self._kinds()
        slots: list[list[Sequence[_Maker]]] = [[] for _ in range(len(calls) + 1)]
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
        self._output([copies[node] for node in self.case.graph.output_node().args[0]])
        module = fx.GraphModule(self._root(), self.graph)
        names = [n.target for n in self.graph.find_nodes(op="placeholder")]
        return module, [self.values[str(name)] for name in names]

    def _input(self, node: fx.Node) -> fx.Node:
        made = self.graph.node_copy(node)
        made.meta.clear()
        if node.op == "placeholder":
            value = self.values[str(node.target)]
            if value.dtype is torch.float64:
                self.known[made] = value
        return made

    def _root(self) -> nn.Module:
        return self.case.module(self.values)

    def _kinds(self) -> list[Sequence[_Maker]]:
        noise, kinds = self.noise, []
        for makers, most in (
            (_PURE, noise.pure),
            (_VIEWS, noise.views),
            (_WRITES, noise.writes),
            (_RANDOM, noise.random),
        ):
            kinds += [makers] * self.chosen.randint(0, most)
        return kinds

    def _know(self, made: fx.Node, call: fx.Node) -> None:
        value = call.meta["val"]
        if isinstance(value, torch.Tensor) and value.dtype is torch.float64:
            self.known[made] = value

    def _disturb(self, makers: Sequence[_Maker]) -> None:
        usable = [n for n, v in self.known.items() if v.dim() and v.shape[0]]
        if not usable:
            return
        source = self.chosen.choice(usable)
        maker = self.chosen.choice(makers)
        made = maker(self.graph, source, self.known[source])
        if maker not in _VIEWS[4:]:
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
