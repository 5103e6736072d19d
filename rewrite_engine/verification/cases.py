"""Concrete graphs with inputs: left sides that run, and values for what they read."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import attrs
import torch
from torch import fx, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from rewrite_engine.errors import first_line
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.verification.choices import Choice, Layout, Unsuitable
from rewrite_engine.verification.modules import MadeModule, keep
from rewrite_engine.verification.operands import Operand
from rewrite_engine.verification.samples import RANDOM, sample


@attrs.frozen
class Tensor:
    """How the value of an input is made."""

    operand: Operand
    dtype: torch.dtype
    layout: Layout

    def make(self, kind: str, generator: torch.Generator) -> torch.Tensor:
        """A value of a kind of `samples`."""
        shape, content = self.operand.shape, self.operand.content
        made = sample(kind, shape, self.dtype, content, generator)
        if self.layout == "transposed" and made.dim() > 1:
            return made.transpose(0, 1).contiguous().transpose(0, 1)
        return made

    def resized(self, batch: int) -> Tensor:
        """The tensor with another first dimension."""
        shape = (batch, *self.operand.shape[1:])
        return attrs.evolve(self, operand=attrs.evolve(self.operand, shape=shape))


@attrs.frozen(eq=False)
class Case:
    """A left side that runs: its graph, and how the values it reads are made.

    `state` gives the inputs that are state of the module, not arguments, and where:
    `{"w": "linear.weight"}`. `modules` are those that it calls, by path. `claimed` says
    whether the rule claims that its right side does the same here.
    """

    graph: fx.Graph
    tensors: Mapping[str, Tensor]
    state: Mapping[str, str]
    instance: Instance
    choice: Choice
    modules: Mapping[str, MadeModule] = attrs.field(factory=dict)
    buffers: frozenset[str] = frozenset()
    """What is a buffer by its place, whatever it holds."""
    claimed: bool = True
    is_example: bool = False
    """Whether it is the graph of a test, and not made for the instance."""

    @property
    def dynamic(self) -> frozenset[str]:
        """The arguments with a dynamic batch."""
        batch = self.choice.sizes.batch
        shapes = {n: t.operand.shape for n, t in self.tensors.items()}
        named = {n for n, shape in shapes.items() if shape and shape[0] == batch}
        dynamic = named - self.state.keys()
        return frozenset(dynamic) if self.choice.dynamic else frozenset()

    def values(
        self, kind: str, seed: int, batch: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Seeded values for all inputs; `batch` is the size where it is dynamic."""
        generator = torch.Generator().manual_seed(seed)
        tensors = dict(self.tensors)
        if batch is not None:
            tensors |= {name: tensors[name].resized(batch) for name in self.dynamic}
        return {name: tensor.make(kind, generator) for name, tensor in tensors.items()}

    def module(self, values: Mapping[str, torch.Tensor]) -> fx.GraphModule:
        """A fresh module with the state among the values."""
        root = nn.Module()
        for path, made in self.modules.items():
            root.add_module(path, made.make())
        for name, path in sorted(self.state.items()):
            value = values[name].clone()
            is_parameter = self.is_parameter(name)
            keep(root, path, nn.Parameter(value) if is_parameter else value)
        return fx.GraphModule(root, copy.deepcopy(self.graph), "Left")

    def is_parameter(self, name: str) -> bool:
        """Whether an input that is state is a parameter; else it is a buffer."""
        tensor = self.tensors[name]
        differentiable = tensor.dtype.is_floating_point or tensor.dtype.is_complex
        is_buffer = tensor.operand.is_buffer or name in self.buffers
        return differentiable and not is_buffer

    def inputs(self, values: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The arguments among the values, in order."""
        return [value for name, value in values.items() if name not in self.state]

    def held(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state among the values, by its path in the module."""
        return {path: values[name] for name, path in self.state.items()}


def record_dynamic(case: Case) -> None:
    """Record the values of all nodes anew, with dynamic batches.

    Raises: Unsuitable, if the left side is wrong for some batch sizes.
    """
    if not case.dynamic:
        raise Unsuitable("no argument has a batch")
    values = case.values(RANDOM, 0)
    module = case.module(values)
    fakes = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    inputs = [
        _dynamic(name, value, fakes)
        if name in case.dynamic
        else fakes.from_tensor(value)
        for name, value in values.items()
        if name not in case.state
    ]
    try:
        FakeTensorProp(module, fakes).propagate_dont_convert_inputs(*inputs)
    except Exception as error:  # whatever operators raise
        raise Unsuitable(first_line(error)) from error
    for old, new in zip(case.graph.nodes, module.graph.nodes, strict=True):
        if "val" in new.meta:
            old.meta["val"] = new.meta["val"]
    env = fakes.shape_env
    assert env is not None
    if env.replacements:
        raise Unsuitable("the left side fixes the batch size")


def _dynamic(name: str, value: torch.Tensor, fakes: FakeTensorMode) -> torch.Tensor:
    sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (value.dim() - 1)]
    return fakes.from_tensor(
        value,
        symbolic_context=StatelessSymbolicContext(sizes),
        source=ConstantSource(name),
    )
