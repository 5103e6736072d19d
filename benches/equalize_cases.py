"""Small seeded models for input-weight equalization, one for each thing that can vary.

The tests run every case; the benchmark measures int8 on them. Inputs have outlier
channels, so that a scale that is left out, or applied twice, shows in the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

Build = Callable[[], nn.Module]


@attrs.frozen(eq=False)
class Case:
    """One model, its input, and which of its layers are equalized."""

    name: str
    build: Build
    shape: tuple[int, ...]
    """Of the input."""
    axis: int = -1
    """The channel axis of the input."""
    layers: tuple[str, ...] | None = None
    """Names of the layers to equalize; None means all."""
    dtype: torch.dtype = torch.float32
    spoil: Callable[[torch.Tensor], None] | None = None
    """Changes the input in place."""
    calibrated: bool = True
    qconfig: str = "static"
    """How the input is quantized: static, dynamic, histogram, per_channel or qat."""

    def model(self) -> nn.Module:
        """The module in eval mode; the same parameters at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build().to(self.dtype).eval()

    def input(self, seed: int = 1) -> torch.Tensor:
        """An input whose channels differ in range by up to a factor of 100."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.shape, generator=generator)
        sizes = [1] * len(self.shape)
        sizes[self.axis] = -1
        factors = torch.logspace(-1, 1, self.shape[self.axis])
        x = (x * factors.view(sizes)).to(self.dtype)
        if self.spoil is not None:
            self.spoil(x)
        return x

    def with_dtype(self, dtype: torch.dtype) -> Case:
        """The same case in another precision."""
        name = f"{self.name} {str(dtype).removeprefix('torch.')}"
        return attrs.evolve(self, name=name, dtype=dtype)


class Net(nn.Module):
    """A forward function over named submodules, parameters and buffers."""

    def __init__(self, body: Callable[..., Any], /, **parts: Any) -> None:
        super().__init__()
        self.compute = body
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.compute(self, x)


class ReluIn(Net):
    """A model whose input goes by a misleading name."""

    def forward(self, relu_in: torch.Tensor) -> Any:
        return self.compute(self, relu_in)


class Named(nn.Linear):
    """A subclass that changes nothing."""


class Doubled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def param(*shape: int) -> nn.Parameter:
    """A parameter of about unit variance a row."""
    return nn.Parameter(torch.randn(shape) / max(1, shape[-1]) ** 0.5)


def seq(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def settled(norm: nn.Module) -> nn.Module:
    """A norm whose parameters and statistics are away from their defaults."""
    for name in ("weight", "running_var"):
        if isinstance(getattr(norm, name, None), torch.Tensor):
            nn.init.uniform_(getattr(norm, name), 0.3, 3.0)
    for name in ("bias", "running_mean"):
        if isinstance(getattr(norm, name, None), torch.Tensor):
            nn.init.normal_(getattr(norm, name))
    return norm


def with_value(tensor: torch.Tensor, index: Any, value: float) -> None:
    tensor[index] = value


# --- single layers and shapes ---


def single_layers() -> Iterator[Case]:
    yield Case("linear", lambda: seq(nn.Linear(6, 4)), (8, 6))
    yield Case("linear without bias", lambda: seq(nn.Linear(6, 4, bias=False)), (8, 6))
    yield Case("linear on [B, T, C]", lambda: seq(nn.Linear(6, 4)), (3, 5, 6))
    yield Case("linear on [B, C, C]", lambda: seq(nn.Linear(6, 4)), (3, 6, 6))
    yield Case("linear on [C]", lambda: seq(nn.Linear(6, 4)), (6,))
    yield Case("linear on rank 4", lambda: seq(nn.Linear(6, 4)), (2, 3, 5, 6))
    for k, conv in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1):
        space = (7,) * k
        name = conv.__name__.lower()
        yield Case(name, lambda c=conv: seq(c(6, 4, 3)), (4, 6, *space), -1 - k)
        yield Case(
            f"{name} unbatched", lambda c=conv: seq(c(6, 4, 3)), (6, *space), -1 - k
        )
        yield Case(
            f"{name} groups",
            lambda c=conv: seq(c(6, 4, 3, groups=2)),
            (4, 6, *space),
            -1 - k,
        )
        yield Case(
            f"{name} depthwise",
            lambda c=conv: seq(c(6, 12, 3, groups=6)),
            (4, 6, *space),
            -1 - k,
        )
    options: dict[str, dict[str, Any]] = {
        "stride": {"stride": 2},
        "padding": {"padding": 1},
        "padding same": {"padding": "same"},
        "dilation": {"dilation": 2},
        "reflect padding": {"padding": 1, "padding_mode": "reflect"},
    }
    for name, option in options.items():
        yield Case(
            f"conv2d {name}",
            lambda o=option: seq(nn.Conv2d(6, 4, 3, **o)),
            (4, 6, 9, 9),
            1,
        )
    yield Case(
        "transposed convolution alone",
        lambda: seq(nn.ConvTranspose2d(6, 4, 3)),
        (2, 6, 5, 5),
        1,
    )


# --- what stands between two layers ---

BETWEEN: dict[str, Callable[[], Any]] = {
    "nothing": lambda: nn.Identity(),
    "nn.ReLU": lambda: nn.ReLU(),
    "nn.ReLU inplace": lambda: nn.ReLU(inplace=True),
    "F.relu": lambda: F.relu,
    "F.relu inplace": lambda: lambda y: F.relu(y, inplace=True),
    "torch.relu": lambda: torch.relu,
    "torch.relu_": lambda: torch.relu_,
    ".relu": lambda: lambda y: y.relu(),
    ".relu_": lambda: lambda y: y.relu_(),
    "nn.LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "F.leaky_relu": lambda: lambda y: F.leaky_relu(y, 0.2),
    "nn.PReLU": lambda: nn.PReLU(),
    "nn.Dropout": lambda: nn.Dropout(0.5),
    "F.dropout in eval": lambda: lambda y: F.dropout(y, 0.5, training=False),
    "relu twice": lambda: nn.Sequential(nn.ReLU(), nn.ReLU()),
    "relu and dropout": lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.2)),
    "nn.ReLU6": lambda: nn.ReLU6(),
    "nn.GELU": lambda: nn.GELU(),
    "nn.SiLU": lambda: nn.SiLU(),
    "nn.ELU": lambda: nn.ELU(),
    "nn.Sigmoid": lambda: nn.Sigmoid(),
    "nn.Hardswish": lambda: nn.Hardswish(),
    "leaky relu with negative slope": lambda: nn.LeakyReLU(-0.5),
    "an added constant": lambda: lambda y: y + 1,
    "a factor": lambda: lambda y: y * 2,
    "square": lambda: lambda y: y * y,
    "in-place addition": lambda: lambda y: y.add_(1),
}
"""What is applied to the output of the first layer, of 8 channels."""


def _applied(between: Any) -> dict[str, Any]:
    return {"f": between} if isinstance(between, nn.Module) else {}


def _pair(between: Any, first: nn.Module, second: nn.Module) -> nn.Module:
    """`second(between(first(x)))`, with `between` a module or a function."""
    if isinstance(between, nn.Module):
        return Net(lambda m, x: m.b(m.f(m.a(x))), a=first, f=between, b=second)
    return Net(lambda m, x: m.b(between(m.a(x))), a=first, b=second)


def pairs() -> Iterator[Case]:
    for name, make in BETWEEN.items():
        yield Case(
            f"{name} between linears",
            lambda make=make: _pair(make(), nn.Linear(6, 8), nn.Linear(8, 4)),
            (8, 6),
        )
        yield Case(
            f"{name} between convolutions",
            lambda make=make: _pair(make(), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 1)),
            (2, 6, 5, 5),
            1,
        )
    yield Case(
        "nn.PReLU with a slope a channel",
        lambda: _pair(nn.PReLU(8), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 1)),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "softmax between linears on [B, T, C]",
        lambda: _pair(nn.Softmax(-1), nn.Linear(6, 8), nn.Linear(8, 4)),
        (2, 5, 6),
    )
    yield Case(
        "relu between linears on [B, T, C]",
        lambda: _pair(nn.ReLU(), nn.Linear(6, 8), nn.Linear(8, 4)),
        (2, 5, 6),
    )
    yield Case(
        "relu between linears on [C]",
        lambda: _pair(nn.ReLU(), nn.Linear(6, 8), nn.Linear(8, 4)),
        (6,),
    )


def convolution_pairs() -> Iterator[Case]:
    def conv(*layers: nn.Module) -> Build:
        return lambda: seq(*layers)

    pools: dict[str, nn.Module] = {
        "max pooling": nn.MaxPool2d(2),
        "average pooling": nn.AvgPool2d(2),
        "adaptive pooling": nn.AdaptiveAvgPool2d(2),
        "upsampling": nn.Upsample(scale_factor=2),
        "padding": nn.ZeroPad2d(1),
    }
    for name, pool in pools.items():
        yield Case(
            f"{name} between convolutions",
            lambda p=pool: seq(nn.Conv2d(6, 8, 3), p, nn.Conv2d(8, 4, 1)),
            (2, 6, 9, 9),
            1,
        )
    yield Case(
        "flatten between convolution and linear",
        lambda: seq(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "pooled and flattened features",
        lambda: seq(
            nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "a linear along the width of an image",
        lambda: seq(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Linear(8, 4)),
        (2, 6, 10, 10),
        1,
    )
    yield Case(
        "grouped producer",
        lambda: seq(nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "grouped consumer",
        lambda: seq(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2)),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "depthwise and pointwise",
        lambda: seq(
            nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU()
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "inverted residual",
        lambda: Net(
            lambda m, x: x + m.c(F.relu6(m.b(F.relu6(m.a(x))))),
            a=nn.Conv2d(6, 12, 1),
            b=nn.Conv2d(12, 12, 3, padding=1, groups=12),
            c=nn.Conv2d(12, 6, 1),
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "transposed producer",
        lambda: seq(nn.ConvTranspose2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        (2, 6, 5, 5),
        1,
    )
    for k, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1):
        yield Case(
            f"three of {kind.__name__.lower()}",
            lambda c=kind: seq(
                c(6, 8, 3), nn.ReLU(), c(8, 8, 1), nn.ReLU(), c(8, 4, 1)
            ),
            (2, 6, *(5,) * k),
            1,
        )
        yield Case(
            f"unbatched pair of {kind.__name__.lower()}",
            lambda c=kind: seq(c(6, 8, 3), nn.ReLU(), c(8, 4, 1)),
            (6, *(5,) * k),
            0,
        )


# --- norms ---


def norms() -> Iterator[Case]:
    image = (4, 6, 5, 5)
    yield Case(
        "conv, batch norm, relu, conv",
        lambda: seq(
            nn.Conv2d(6, 8, 3),
            settled(nn.BatchNorm2d(8)),
            nn.ReLU(),
            nn.Conv2d(8, 4, 1),
        ),
        image,
        1,
    )
    yield Case(
        "conv, batch norm, conv",
        lambda: seq(nn.Conv2d(6, 8, 3), settled(nn.BatchNorm2d(8)), nn.Conv2d(8, 4, 1)),
        image,
        1,
    )
    yield Case(
        "batch norm before a convolution",
        lambda: seq(settled(nn.BatchNorm2d(6)), nn.Conv2d(6, 4, 3)),
        image,
        1,
    )
    yield Case(
        "batch norm without parameters",
        lambda: seq(nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 4, 3)),
        image,
        1,
    )
    yield Case(
        "batch norm, relu, linear",
        lambda: seq(settled(nn.BatchNorm1d(6)), nn.ReLU(), nn.Linear(6, 4)),
        (8, 6),
    )
    yield Case(
        "group norm before a convolution",
        lambda: seq(settled(nn.GroupNorm(2, 6)), nn.Conv2d(6, 4, 3)),
        image,
        1,
    )
    yield Case(
        "layer norm before a linear",
        lambda: seq(settled(nn.LayerNorm(6)), nn.Linear(6, 4)),
        (2, 5, 6),
    )
    yield Case(
        "layer norm without bias",
        lambda: seq(settled(nn.LayerNorm(6, bias=False)), nn.Linear(6, 4)),
        (2, 5, 6),
    )
    yield Case(
        "layer norm without parameters",
        lambda: seq(nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 4)),
        (2, 5, 6),
    )
    yield Case(
        "layer norm over two axes",
        lambda: seq(settled(nn.LayerNorm((5, 6))), nn.Linear(6, 4)),
        (2, 5, 6),
    )
    yield Case(
        "rms norm before a linear",
        lambda: seq(settled(nn.RMSNorm(6)), nn.Linear(6, 4)),
        (2, 5, 6),
    )
    yield Case(
        "layer norm read by three linears",
        lambda: Net(
            lambda m, x: (lambda y: m.q(y) + m.k(y) * m.v(y))(m.n(x)),
            n=settled(nn.LayerNorm(6)),
            q=nn.Linear(6, 4),
            k=nn.Linear(6, 4),
            v=nn.Linear(6, 4),
        ),
        (2, 5, 6),
    )


# --- functional layers ---


def functional() -> Iterator[Case]:
    yield Case(
        "F.linear on parameters",
        lambda: Net(
            lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.b)), m.w2),
            w=param(8, 6),
            b=param(8),
            w2=param(4, 8),
        ),
        (8, 6),
    )
    yield Case(
        "F.linear on buffers",
        lambda: Net(
            lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.b)), m.w2),
            w=param(8, 6).detach(),
            b=param(8).detach(),
            w2=param(4, 8).detach(),
        ),
        (8, 6),
    )
    yield Case(
        "F.linear by keyword",
        lambda: Net(
            lambda m, x: F.linear(
                weight=m.w2, input=F.relu(F.linear(x, bias=m.b, weight=m.w))
            ),
            w=param(8, 6),
            b=param(8),
            w2=param(4, 8),
        ),
        (8, 6),
    )
    yield Case(
        "F.linear with a bias called otherwise",
        lambda: Net(
            lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.shift)), m.w2, m.shift2),
            w=param(8, 6),
            shift=param(8),
            w2=param(4, 8),
            shift2=param(4),
        ),
        (8, 6),
    )
    yield Case(
        "F.linear on the state of a module",
        lambda: Net(
            lambda m, x: F.linear(x, m.inner.weight, m.inner.bias),
            inner=nn.Linear(6, 4),
        ),
        (8, 6),
    )
    yield Case(
        "F.linear on a plain tensor",
        lambda: _plain_tensor(),
        (8, 6),
    )
    yield Case(
        "F.linear on a computed weight",
        lambda: Net(lambda m, x: F.linear(x, m.w * 2, m.b), w=param(4, 6), b=param(4)),
        (8, 6),
    )
    convs = (F.conv1d, F.conv2d, F.conv3d)
    for k, conv in enumerate(convs, 1):
        yield Case(
            f"F.conv{k}d",
            lambda k=k, conv=conv: Net(
                lambda m, x: conv(F.relu(conv(x, m.w, m.b)), m.w2),
                w=param(8, 6, *(3,) * k),
                b=param(8),
                w2=param(4, 8, *(1,) * k),
            ),
            (2, 6, *(5,) * k),
            1,
        )
    yield Case(
        "F.conv2d with groups by keyword",
        lambda: Net(
            lambda m, x: F.conv2d(x, m.w, bias=m.b, groups=2, padding=1),
            w=param(8, 3, 3, 3),
            b=param(8),
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "module and functional layers mixed",
        lambda: Net(
            lambda m, x: m.c(torch.relu(F.linear(m.a(x).relu(), m.w, m.b))),
            a=nn.Linear(6, 8),
            w=param(8, 8),
            b=param(8),
            c=nn.Linear(8, 4),
        ),
        (8, 6),
    )


def _plain_tensor() -> nn.Module:
    weight = torch.randn(4, 6)
    return Net(lambda m, x: F.linear(x, m.holder.weight), holder=Holder(weight))


class Holder(nn.Module):
    """Keeps a tensor that is neither a parameter nor a buffer."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.weight = tensor


# --- branches, residuals, returned values ---


def branches() -> Iterator[Case]:
    def forked() -> nn.Module:
        return Net(
            lambda m, x: (lambda y: m.b(y) * m.c(y))(F.relu(m.a(x))),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
            c=nn.Linear(8, 4),
        )

    for bits in range(8):
        chosen = tuple(name for i, name in enumerate("abc") if bits >> i & 1)
        yield Case(
            f"a fork, equalized: {', '.join(chosen) or 'none'}",
            forked,
            (8, 6),
            -1,
            chosen,
        )
    yield Case(
        "an input read by a layer and by another operator",
        lambda: Net(lambda m, x: m.a(x) + x.sum(), a=nn.Linear(6, 4)),
        (8, 6),
    )
    yield Case(
        "an activation read by a layer and by another operator",
        lambda: Net(
            lambda m, x: (lambda y: m.b(y) + y.mean())(F.relu(m.a(x))),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
        ),
        (8, 6),
    )
    yield Case(
        "a value between layers, also before its relu",
        lambda: Net(
            lambda m, x: (lambda y: m.b(F.relu(y)) + y.mean())(m.a(x)),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
        ),
        (8, 6),
    )
    yield Case(
        "a value that is also returned",
        lambda: Net(
            lambda m, x: (lambda y: (y, m.b(y)))(F.relu(m.a(x))),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
        ),
        (8, 6),
    )
    yield Case(
        "a value whose shape is read",
        lambda: Net(
            lambda m, x: (lambda y: m.b(y).reshape(y.shape[0], 2, -1))(F.relu(m.a(x))),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
        ),
        (8, 6),
    )
    yield Case(
        "residual block",
        lambda: Net(
            lambda m, x: F.relu(x + m.b(F.relu(m.a(x)))),
            a=nn.Conv2d(6, 8, 3, padding=1),
            b=nn.Conv2d(8, 6, 1),
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "two residual blocks",
        lambda: Net(
            lambda m, x: (lambda y: y + m.d(F.relu(m.c(y))))(
                F.relu(x + m.b(F.relu(m.a(x))))
            ),
            a=nn.Conv2d(6, 8, 3, padding=1),
            b=nn.Conv2d(8, 6, 1),
            c=nn.Conv2d(6, 8, 3, padding=1),
            d=nn.Conv2d(8, 6, 1),
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "pre-activation block",
        lambda: Net(
            lambda m, x: x + m.b(F.relu(m.n2(m.a(F.relu(m.n1(x)))))),
            n1=settled(nn.BatchNorm2d(6)),
            a=nn.Conv2d(6, 8, 3, padding=1),
            n2=settled(nn.BatchNorm2d(8)),
            b=nn.Conv2d(8, 6, 1),
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "residual with a projection",
        lambda: Net(
            lambda m, x: F.relu(m.p(x) + m.b(F.relu(m.a(x)))),
            a=nn.Conv2d(6, 8, 3, padding=1),
            b=nn.Conv2d(8, 8, 1),
            p=nn.Conv2d(6, 8, 1),
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "concatenated branches",
        lambda: Net(
            lambda m, x: m.c(torch.cat([m.a(x), F.relu(m.b(x))], 1)),
            a=nn.Conv2d(6, 4, 1),
            b=nn.Conv2d(6, 4, 1),
            c=nn.Conv2d(8, 4, 1),
        ),
        (2, 6, 5, 5),
        1,
    )
    yield Case(
        "chunks of one layer",
        lambda: Net(
            lambda m, x: m.b(m.a(x).chunk(2, dim=-1)[0]),
            a=nn.Linear(6, 8),
            b=nn.Linear(4, 4),
        ),
        (8, 6),
    )
    yield Case(
        "gated perceptron",
        lambda: Net(
            lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)),
            gate=nn.Linear(6, 8),
            up=nn.Linear(6, 8),
            down=nn.Linear(8, 6),
        ),
        (2, 5, 6),
    )
    yield Case(
        "a layer that nothing reads",
        lambda: Net(
            lambda m, x: (m.a(x), m.b(x))[1], a=nn.Linear(6, 4), b=nn.Linear(6, 4)
        ),
        (8, 6),
    )
    yield Case(
        "a relu in place of a value that is read before",
        lambda: Net(
            lambda m, x: (lambda y: (y.mean(), m.b(y.relu_())))(m.a(x)),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
        ),
        (8, 6),
    )


# --- sharing ---


def sharing() -> Iterator[Case]:
    yield Case(
        "one module twice in a row",
        lambda: Net(lambda m, x: m.a(m.a(x)), a=nn.Linear(6, 6)),
        (8, 6),
    )
    yield Case(
        "one module twice in a row, with relu",
        lambda: Net(lambda m, x: m.a(F.relu(m.a(x))), a=nn.Linear(6, 6)),
        (8, 6),
    )
    yield Case(
        "one module on two inputs",
        lambda: Net(lambda m, x: m.a(x) + m.a(x * 2), a=nn.Linear(6, 4)),
        (8, 6),
    )
    yield Case(
        "one module under two names",
        lambda: _aliased(),
        (8, 6),
    )
    yield Case(
        "a shared producer",
        lambda: Net(
            lambda m, x: m.b(F.relu(m.a(x))) + m.a(x * 2).mean(),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
        ),
        (8, 6),
    )
    yield Case("tied weights in a row", lambda: _tied(), (8, 6))
    yield Case("tied weights, one equalized", lambda: _tied(), (8, 6), -1, ("b",))
    yield Case(
        "a weight used by a layer and elsewhere",
        lambda: Net(lambda m, x: m.a(x) + m.a.weight.sum(), a=nn.Linear(6, 4)),
        (8, 6),
    )
    yield Case(
        "a functional weight used twice",
        lambda: Net(
            lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.b)), m.w, m.b),
            w=param(6, 6),
            b=param(6),
        ),
        (8, 6),
    )
    yield Case(
        "one bias for two layers",
        lambda: Net(
            lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.b)), m.w2, m.b),
            w=param(6, 6),
            w2=param(6, 6),
            b=param(6),
        ),
        (8, 6),
    )
    yield Case(
        "a weight that is a view of another",
        lambda: _viewed(),
        (8, 6),
    )


def _aliased() -> nn.Module:
    layer = nn.Linear(6, 6)
    return Net(lambda m, x: m.b(F.relu(m.a(x))), a=layer, b=layer)


def _tied() -> nn.Module:
    model = Net(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    model.b.weight = model.a.weight
    return model


def _viewed() -> nn.Module:
    model = Net(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    model.b.weight = nn.Parameter(model.a.weight.detach().t())
    return model


# --- selections ---


def selections() -> Iterator[Case]:
    def three() -> nn.Module:
        return Net(
            lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 8),
            c=nn.Linear(8, 4),
        )

    for bits in range(1, 7):
        chosen = tuple(name for i, name in enumerate("abc") if bits >> i & 1)
        yield Case(f"of three: {', '.join(chosen)}", three, (8, 6), -1, chosen)
    yield Case(
        "a container by its name",
        lambda: Net(
            lambda m, x: m.head(m.body(x)),
            body=seq(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)),
            head=nn.Linear(8, 4),
        ),
        (8, 6),
        -1,
        ("body",),
    )
    yield Case(
        "a functional layer by its weight",
        lambda: Net(
            lambda m, x: F.linear(F.relu(F.linear(x, m.w)), m.w2),
            w=param(8, 6),
            w2=param(4, 8),
        ),
        (8, 6),
        -1,
        ("w2",),
    )


# --- degenerate numbers ---


def numbers() -> Iterator[Case]:
    def plain() -> nn.Module:
        return seq(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    spoils: dict[str, Callable[[torch.Tensor], None]] = {
        "a zero channel": lambda x: with_value(x, (..., 0), 0.0),
        "a constant channel": lambda x: with_value(x, (..., 0), 3.0),
        "all channels zero": lambda x: with_value(x, (...,), 0.0),
        "an infinite value": lambda x: with_value(x, (0, 0), float("inf")),
        "a value that is no number": lambda x: with_value(x, (0, 0), float("nan")),
        "a tiny channel": lambda x: x[..., 0].mul_(1e-30),
        "a huge channel": lambda x: x[..., 0].mul_(1e6),
    }
    for name, spoil in spoils.items():
        yield Case(name, plain, (8, 6), spoil=spoil)
    yield Case("one input channel", lambda: seq(nn.Linear(1, 4)), (8, 1))
    yield Case(
        "one channel between layers",
        lambda: seq(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 4)),
        (8, 6),
    )
    yield Case("one output channel", lambda: seq(nn.Linear(6, 1)), (8, 6))
    yield Case(
        "one channel of an image", lambda: seq(nn.Conv2d(1, 4, 3)), (2, 1, 5, 5), 1
    )
    yield Case("a single sample", plain, (1, 6))
    zeros = {"a column": (slice(None), 0), "a row": (0,), "everything": (slice(None),)}
    for name, index in zeros.items():
        yield Case(
            f"zeros in {name} of the weight", lambda index=index: _zeroed(index), (8, 6)
        )
    yield Case(
        "uncalibrated linear", lambda: seq(nn.Linear(6, 4)), (8, 6), calibrated=False
    )
    yield Case("uncalibrated chain", plain, (8, 6), calibrated=False)
    yield Case(
        "uncalibrated convolutions",
        lambda: seq(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        (2, 6, 5, 5),
        1,
        calibrated=False,
    )


def _zeroed(index: tuple[Any, ...]) -> nn.Module:
    model = seq(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    for layer in (model[0], model[2]):
        layer.weight.data[index] = 0
    return model


# --- classes, names, hooks ---


def oddities() -> Iterator[Case]:
    yield Case(
        "a subclass of linear", lambda: seq(Named(6, 8), nn.ReLU(), Named(8, 4)), (8, 6)
    )
    yield Case(
        "a subclass that computes something else",
        lambda: seq(Doubled(6, 8), nn.ReLU(), nn.Linear(8, 4)),
        (8, 6),
    )
    yield Case(
        "a name that is taken",
        lambda: Net(
            lambda m, x: m.a(x) + m.x_equalization_scale0,
            a=nn.Linear(6, 4),
            x_equalization_scale0=torch.randn(4),
        ),
        (8, 6),
    )
    yield Case(
        "an input called relu_in",
        lambda: ReluIn(
            lambda m, x: m.b(F.relu(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 4)
        ),
        (8, 6),
    )
    yield Case(
        "a layer called relu",
        lambda: Net(
            lambda m, x: m.b(torch.sigmoid(m.relu(x))),
            relu=nn.Linear(6, 8),
            b=nn.Linear(8, 4),
        ),
        (8, 6),
    )
    yield Case("weight norm", lambda: seq(_weight_norm(nn.Linear(6, 4))), (8, 6))
    yield Case(
        "weight norm by parametrization",
        lambda: seq(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))),
        (8, 6),
    )
    yield Case("a layer with a hook", lambda: _hooked(), (8, 6))
    yield Case("frozen parameters", lambda: _frozen(), (8, 6))
    yield Case(
        "transformer block",
        lambda: Net(
            _transformer,
            n1=settled(nn.LayerNorm(8)),
            q=nn.Linear(8, 8),
            k=nn.Linear(8, 8),
            v=nn.Linear(8, 8),
            o=nn.Linear(8, 8),
            n2=settled(nn.LayerNorm(8)),
            up=nn.Linear(8, 16),
            down=nn.Linear(16, 8),
        ),
        (2, 5, 8),
    )


def _weight_norm(layer: nn.Module) -> nn.Module:
    layer = nn.utils.weight_norm(layer)
    layer.weight = layer.weight.detach()  # deepcopy takes no intermediate results
    return layer


def _hooked() -> nn.Module:
    model = seq(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].register_forward_hook(_double)
    return model


def _double(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def _frozen() -> nn.Module:
    model = seq(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].requires_grad_(False)
    return model


def _transformer(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = m.n1(x)
    y = F.scaled_dot_product_attention(m.q(y), m.k(y), m.v(y))
    x = x + m.o(y)
    return x + m.down(F.relu(m.up(m.n2(x))))


# --- precisions and quantizers ---


def precisions() -> Iterator[Case]:
    chosen = {
        "linear",
        "conv2d groups",
        "nn.ReLU between linears",
        "nn.ReLU between convolutions",
        "F.linear on parameters",
        "layer norm before a linear",
        "residual block",
        "transformer block",
    }
    for case in [c for group in GROUPS for c in group() if c.name in chosen]:
        for dtype in (torch.float64, torch.float16, torch.bfloat16):
            yield case.with_dtype(dtype)


def quantizers() -> Iterator[Case]:
    def linears() -> nn.Module:
        return seq(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def convs() -> nn.Module:
        return seq(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))

    for kind in ("dynamic", "histogram", "per_channel", "qat"):
        yield Case(f"linears, {kind} quantizer", linears, (8, 6), qconfig=kind)
    for kind in ("histogram", "per_channel", "qat"):
        yield Case(
            f"convolutions, {kind} quantizer", convs, (2, 6, 5, 5), 1, qconfig=kind
        )


GROUPS = (
    single_layers,
    pairs,
    convolution_pairs,
    norms,
    functional,
    branches,
    sharing,
    selections,
    numbers,
    oddities,
    quantizers,
)

CASES = {case.name: case for group in (*GROUPS, precisions) for case in group()}
