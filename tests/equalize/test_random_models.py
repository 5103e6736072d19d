"""Random small networks: equalized, they compute what they computed before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.ao import quantization as ao
from torch.ao.quantization.quantize_fx import prepare_fx

from rewrite_engine import engine, load
from rewrite_engine.equalize import EqualizationConfig, convert, prepare
from rewrite_engine.tensor_types import UNKNOWN, attribute
from tests.equalize.test_convert import unobserved

CHANNELS = 4
"""Of every value, so that any two can be added, and any layer can read any value."""

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda rank: nn.Linear(CHANNELS, CHANNELS, bias=rank > 0),
    "conv": lambda rank: (nn.Conv1d, nn.Conv2d)[rank - 1](CHANNELS, CHANNELS, 1),
    "grouped": lambda rank: (nn.Conv1d, nn.Conv2d)[rank - 1](
        CHANNELS, CHANNELS, 3, padding=1, groups=2
    ),
    "layer norm": lambda rank: nn.LayerNorm(CHANNELS),
    "batch norm": lambda rank: (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[rank](
        CHANNELS
    ),
}
ON_VECTORS = ("linear", "linear", "layer norm", "batch norm")
ON_IMAGES = ("conv", "conv", "grouped", "batch norm")

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    ".relu": lambda v: v.relu(),
    "leaky_relu": lambda v: F.leaky_relu(v, 0.2),
    "gelu": F.gelu,
    "relu6": F.relu6,
    "factor": lambda v: -1.5 * v,
    "quotient": lambda v: v / 3,
    "dropout": lambda v: F.dropout(v, 0.5, training=False),
    "size": lambda v: v.reshape(v.shape),
}


@attrs.frozen
class Step:
    """One more value: `kind` of layer, function, or "add", of earlier values."""

    kind: str
    first: int
    """Counted from the newest value."""
    second: int
    """The other summand, or which layer is called again."""


@attrs.frozen
class Recipe:
    """A network, as a list of steps."""

    rank: int
    """How many axes come after the channels; with none, layers are linear."""
    steps: tuple[Step, ...]
    returned: tuple[int, ...]
    chosen: int
    """One bit a layer: whether it is equalized."""
    seed: int


class Network(nn.Module):
    """Runs a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.layers = nn.ModuleList()
        self.calls: dict[int, int] = {}
        for place, step in enumerate(recipe.steps):
            if step.kind in LAYERS:
                self.layers.append(LAYERS[step.kind](recipe.rank))
                self.calls[place] = len(self.layers) - 1
            elif step.kind == "again" and len(self.layers):
                self.calls[place] = step.second % len(self.layers)

    def forward(self, x: torch.Tensor) -> Any:
        values = [x]
        for place, step in enumerate(self.recipe.steps):
            value = values[-1 - step.first % len(values)]
            if place in self.calls:
                values.append(self.layers[self.calls[place]](value))
            elif step.kind == "add":
                values.append(value + values[-1 - step.second % len(values)])
            elif step.kind == "functional" and len(self.layers):
                layer = self.layers[step.second % len(self.layers)]
                values.append(_called_as_function(layer, value))
            else:
                values.append(FUNCTIONS.get(step.kind, F.relu)(value))
        return tuple(values[-1 - i % len(values)] for i in self.recipe.returned)


def _called_as_function(layer: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """The weight of one layer in a call of a function."""
    if isinstance(layer, nn.Linear):
        return F.linear(value, layer.weight, layer.bias)
    return F.relu(value)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    rank = draw(st.sampled_from([0, 0, 1, 2]))
    layers = ON_IMAGES if rank else ON_VECTORS
    kinds = st.one_of(
        st.sampled_from(layers),
        st.sampled_from(sorted(FUNCTIONS)),
        st.sampled_from(["add", "again", "functional"]),
    )
    near = st.sampled_from([0, 0, 0, 1, 2, 3])
    steps = draw(st.lists(st.builds(Step, kinds, near, near), min_size=2, max_size=9))
    returned = draw(st.lists(near, min_size=1, max_size=2))
    chosen = draw(st.one_of(st.just(-1), st.integers(0, 255)))
    return Recipe(rank, tuple(steps), (0, *returned), chosen, draw(st.integers(0, 99)))


def network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(recipe.seed)
    model = Network(recipe).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.3, 3)
        elif tensor.is_floating_point():
            tensor.normal_()
    return model


def data(recipe: Recipe, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, CHANNELS, *(5,) * recipe.rank, generator=generator)
    return x * torch.logspace(-1, 1, CHANNELS).view(-1, *(1,) * recipe.rank)


def config(recipe: Recipe) -> EqualizationConfig:
    if recipe.chosen < 0:
        return EqualizationConfig()
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    called = set(network(recipe).calls.values())
    names = [
        f"layers.{i}"
        for i, layer in enumerate(network(recipe).layers)
        if isinstance(layer, kinds) and i in called and recipe.chosen >> i & 1
    ]
    return EqualizationConfig(names)


def equalized(gm: fx.GraphModule, recipe: Recipe, *batches: torch.Tensor):
    prepared = prepare(gm, config(recipe))
    for batch in batches:
        prepared(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(prepared)


def assert_close(got: Any, want: Any, tolerance: float) -> None:
    for a, b in zip(got, want, strict=True):
        largest = max(b.abs().max().item(), 1e-30)
        assert ((a - b).abs().max() / largest).item() < tolerance


def check_float(recipe: Recipe, frontend: str) -> None:
    model = network(recipe).double()
    x, unseen = (data(recipe, seed).double() for seed in (1, 2))
    if frontend == "fx":
        gm = fx.symbolic_trace(model)
    else:
        gm = torch.export.export(model, (x,)).module()
    code = gm.code
    result = equalized(gm, recipe, x)
    assert gm.code == code
    assert_close(result(unseen), model(unseen), 1e-10)
    assert not engine.apply(result, load("equalize")).modified


def check_observed(recipe: Recipe) -> None:
    model = network(recipe)
    x, unseen = data(recipe, 1), data(recipe, 2)
    mapping = ao.QConfigMapping().set_global(ao.default_qconfig)
    # Not the model: torch folds the BatchNorm after one call of a layer into the layer,
    # and so into the other calls.
    gm = prepare_fx(model, mapping, (x,))
    # It loses the weights of a layer that it fuses with a relu and that is also read.
    reads = gm.graph.find_nodes(op="get_attr")
    assume(all(attribute(gm, node.target) is not UNKNOWN for node in reads))
    result = equalized(gm, recipe, x)
    assert unobserved(result) == unobserved(gm)
    assert_close(result(unseen), gm(unseen), 1e-4)


@settings(max_examples=25, deadline=None)
@given(recipes())
@torch.no_grad()
def test_traced_networks_compute_the_same(recipe):
    check_float(recipe, "fx")


@settings(max_examples=8, deadline=None)
@given(recipes())
@torch.no_grad()
def test_exported_networks_compute_the_same(recipe):
    check_float(recipe, "export")


@settings(max_examples=30, deadline=None)
@given(recipes())
@torch.no_grad()
def test_observed_networks_compute_the_same(recipe):
    check_observed(recipe)


@pytest.mark.long
@settings(max_examples=1000, deadline=None)
@given(recipes())
@torch.no_grad()
def test_many_networks_compute_the_same(recipe):
    check_float(recipe, "fx")
    check_observed(recipe)
