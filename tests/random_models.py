"""Random whole models, of what convolutional networks and transformers are made of."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d)
POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
SIZES = (9, 7, 5)
"""Of each axis after the channels, by how many there are; every layer keeps it."""


class Call(nn.Module):
    """A function in the place of a layer."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.function(*values)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(F.relu(self.down(x.flatten(2).mean(2)))).sigmoid()
        return x * y.view(*y.shape, *(1,) * (x.dim() - 2))


class Attention(nn.Module):
    """Of the places of an image; one layer computes query, key and value, or three."""

    def __init__(self, channels: int, *, joint: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        widths = (3 * channels,) if joint else (channels,) * 3
        self.inputs = nn.ModuleList(nn.Linear(channels, width) for width in widths)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(2).transpose(1, 2)
        h = self.norm(rows)
        q, k, v = torch.cat([layer(h) for layer in self.inputs], -1).chunk(3, -1)
        y = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1) @ v
        return (rows + self.output(y)).transpose(1, 2).reshape(x.shape)


class Gated(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(channels)
        self.gate, self.up = nn.Linear(channels, 8, bias=False), nn.Linear(channels, 8)
        self.down = nn.Linear(8, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x.movedim(1, -1))
        return x + self.down(F.silu(self.gate(h)) * self.up(h)).movedim(-1, 1)


class OwnWeight(nn.Module):
    """A convolution as a function, whose weight is computed, or a buffer."""

    def __init__(self, channels: int, rank: int, kind: str) -> None:
        super().__init__()
        self.kind, self.function = kind, FUNCTIONS[rank - 1]
        weight = torch.randn(channels, channels, *(3,) * rank) / 4
        if kind == "buffer":
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)
        self.norm = NORMS[rank - 1](channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean() if self.kind == "computed" else None
        used = self.weight if weight is None else weight
        return self.norm(self.function(x, used, padding=1))


@attrs.frozen
class Step:
    """Which layer is called on which values, counted from the input."""

    layer: int
    values: tuple[int, ...]


class Network(nn.Module):
    def __init__(
        self, layers: list[nn.Module], steps: list[Step], returned: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.steps, self.returned = steps, returned

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x]
        for step in self.steps:
            operands = [values[place] for place in step.values]
            values.append(self.layers[step.layer](*operands))
        return tuple(values[place] for place in self.returned)


@attrs.define
class Builder:
    """Makes the layers of one network, each for a value that is there already."""

    rng: random.Random
    rank: int
    channels: list[int]
    """Of each value."""
    layers: list[nn.Module] = attrs.field(factory=list)
    steps: list[Step] = attrs.field(factory=list)
    inputs: list[int] = attrs.field(factory=list)
    """The channels that each layer takes, 0 if it takes more than one value."""

    def grow(self) -> None:
        """One more value."""
        near = self.rng.random() < 0.7
        place = len(self.channels) - 1 if near else self.rng.randrange(len(self.steps))
        kinds = [self.block] * 6 + [self.sum, self.cat, self.again, self.other] * 2
        self.rng.choice(kinds)(place)

    def append(self, layer: nn.Module, channels: int, *values: int) -> None:
        self.layers.append(layer)
        self.inputs.append(self.channels[values[0]] if len(values) == 1 else 0)
        self.steps.append(Step(len(self.layers) - 1, values))
        self.channels.append(channels)

    def block(self, place: int) -> None:
        """A convolution, mostly with a BatchNorm and an activation."""
        before, after = self.channels[place], self.rng.choice([2, 4, 6])
        layers = [self.convolution(before, after), self.norm(after), self.activation()]
        layers = layers[: self.rng.choice([1, 2, 3, 3, 3])]
        self.append(nn.Sequential(*layers), after, place)

    def convolution(self, before: int, after: int) -> nn.Module:
        groups = self.rng.choice([1, 1, 2]) if before % 2 == 0 else 1
        bias = self.rng.random() < 0.5
        if self.rng.random() < 0.2:
            kind = TRANSPOSED[self.rank - 1]
            return kind(before, after, 3, padding=1, groups=groups, bias=bias)
        options = self.rng.choice(
            [
                {"padding": 1},
                {"padding": "same"},
                {"padding": 2, "dilation": 2},
                {"padding": 1, "padding_mode": "circular"},
            ]
        )
        kind = CONVOLUTIONS[self.rank - 1]
        return kind(before, after, 3, groups=groups, bias=bias, **options)

    def norm(self, channels: int) -> nn.Module:
        options = self.rng.choice(
            [
                {},
                {"eps": 0.1},
                {"momentum": 0.3, "eps": 1e-3},
                {"affine": False},
                {"track_running_stats": False},
            ]
        )
        return NORMS[self.rank - 1](channels, **options)

    def activation(self) -> nn.Module:
        makers = (
            nn.ReLU,
            nn.ReLU6,
            nn.Hardswish,
            nn.GELU,
            nn.PReLU,
            lambda: nn.ReLU(inplace=True),
            lambda: nn.LeakyReLU(0.2),
            lambda: Call(torch.relu),
            lambda: Call(lambda v: v.relu_()),
            lambda: Call(lambda v: v * torch.sigmoid(v)),
        )
        return self.rng.choice(makers)()

    def sum(self, place: int) -> None:
        channels = self.channels[place]
        other = self.rng.choice(self.of_channels(channels))
        function = self.rng.choice(
            [
                torch.add,
                lambda a, b: torch.add(a, b, alpha=0.5),
                lambda a, b: F.relu(a + b),
                lambda a, b: a.add_(b),
            ]
        )
        self.append(Call(function), channels, place, other)

    def cat(self, place: int) -> None:
        other = self.rng.randrange(len(self.channels))
        channels = self.channels[place] + self.channels[other]
        self.append(Call(lambda *values: torch.cat(values, 1)), channels, place, other)

    def again(self, _: int) -> None:
        """A layer that is there already, on some value that fits."""
        fitting = [i for i, taken in enumerate(self.inputs) if taken]
        layer = self.rng.choice(fitting)
        after = next(
            self.channels[i + 1] for i, s in enumerate(self.steps) if s.layer == layer
        )
        place = self.rng.choice(self.of_channels(self.inputs[layer]))
        self.steps.append(Step(layer, (place,)))
        self.channels.append(after)

    def other(self, place: int) -> None:
        """What keeps the channels."""
        channels, rank = self.channels[place], self.rank
        makers = (
            lambda: self.norm(channels),
            lambda: SqueezeExcite(channels),
            lambda: Attention(channels, joint=self.rng.random() < 0.5),
            lambda: Gated(channels),
            lambda: OwnWeight(channels, rank, self.rng.choice(["computed", "buffer"])),
            lambda: nn.GroupNorm(1, channels),
            lambda: nn.Dropout(0.2),
            lambda: Call(lambda v: POOLS[rank - 1](v, 3, 1, 1)),
        )
        self.append(self.rng.choice(makers)(), channels, place)

    def of_channels(self, channels: int) -> list[int]:
        return [i for i, each in enumerate(self.channels) if each == channels]


def random_model(seed: int) -> tuple[Network, torch.Tensor]:
    """A network in double precision, the same for every call, and an input for it."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    rank = rng.choice([1, 2, 2, 3])
    builder = Builder(rng, rank, [rng.choice([3, 4])])
    builder.block(0)
    for _ in range(rng.randint(1, 6)):
        builder.grow()
    last = len(builder.channels) - 1
    returned = (last, rng.randint(1, last))
    model = Network(builder.layers, builder.steps, returned).double()
    _tie(model, rng)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.3, 3)
        elif name.endswith("running_mean"):
            tensor.normal_()
    for parameter in model.parameters():
        parameter.requires_grad_(rng.random() < 0.9)
    x = torch.randn(2, builder.channels[0], *(SIZES[rank - 1],) * rank).double()
    is_last = rank == 2 and rng.random() < 0.3
    return model, x.contiguous(memory_format=torch.channels_last) if is_last else x


def _tie(model: nn.Module, rng: random.Random) -> None:
    """Sometimes one layer has the weight of another."""
    kinds = (nn.Linear, *CONVOLUTIONS)
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    pairs = [
        (a, b)
        for a in layers
        for b in layers
        if a is not b and a.weight.shape == b.weight.shape
    ]
    if pairs and rng.random() < 0.3:
        a, b = rng.choice(pairs)
        b.weight = a.weight
