"""Operators of other libraries, which whoever loads a file grants to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from rewrite_engine import engine, loads
from rewrite_engine.errors import RuleError
from rewrite_engine.torch_ops import granted_signatures

README = Path(__file__).parents[2] / "grammar/README.md"
BLOCKS = re.findall(r"```\n(.*?)```", README.read_text(), flags=re.S)
(FUSE,) = (block for block in BLOCKS if "acme.silu_and_mul" in block)
SPLIT = "rule split { z = acme.silu_and_mul(gate, up) => z' = mul(silu(gate), up) }"


@pytest.fixture(autouse=True, scope="module")
def acme() -> Iterator[None]:
    library = torch.library.Library("acme", "DEF")
    library.define("silu_and_mul(Tensor gate, Tensor up) -> Tensor")
    library.define("count_(Tensor(a!) n, Tensor x) -> Tensor(a!)")
    library.define("silu_and_mul.out(Tensor gate, Tensor up, *, Tensor(a!) out) -> ()")
    every = "CompositeExplicitAutograd"
    library.impl("silu_and_mul", lambda gate, up: nn.functional.silu(gate) * up, every)
    library.impl("count_", lambda n, x: n.add_(x.sum()), every)
    yield
    library._destroy()


class Gated(nn.Module):
    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(gate) * up + 1


def test_a_kernel_is_built_and_matched() -> None:
    x = (torch.randn(2, 3), torch.randn(2, 3))
    program = torch.export.export(Gated(), x)
    kernel = torch.ops.acme.silu_and_mul
    fuse, split = (loads(text, operators=[kernel]) for text in (FUSE, SPLIT))
    assert engine.apply(program, fuse).report.matches == 1
    assert program.graph.find_nodes(op="call_function", target=kernel.default)
    torch.testing.assert_close(program.module()(*x), Gated()(*x))
    assert engine.apply(program, split).report.matches == 1
    assert not program.graph.find_nodes(op="call_function", target=kernel.default)


def test_a_path_means_each_overload_once_and_no_out_variant() -> None:
    kernel = torch.ops.acme.silu_and_mul
    found = granted_signatures([kernel, kernel.default])
    (meant,) = found["acme.silu_and_mul"]
    assert meant.path == "acme.silu_and_mul.default"
    assert [*found] == [
        *("acme.silu_and_mul.default", "acme.silu_and_mul", "acme.silu_and_mul.out")
    ]


def test_it_is_verified_like_any_other() -> None:
    rules = loads(FUSE, operators=[torch.ops.acme.silu_and_mul.default])
    found = engine.verify(rules, trials=6)
    assert found.passed and found.rules[0].compared > 0


def test_what_it_writes_is_known_from_its_schema() -> None:
    rules = loads("rule r { y = relu(n)  z = neg(y) => z' = neg(relu(n)) }")
    graph = torch.fx.Graph()
    n, x = graph.placeholder("n"), graph.placeholder("x")
    y = graph.call_function(torch.ops.aten.relu.default, (n,))
    graph.call_function(torch.ops.acme.count_.default, (n, x))
    graph.output(graph.call_function(torch.ops.aten.neg.default, (y,)))
    report = engine.apply(torch.fx.GraphModule(nn.Module(), graph), rules).report
    (refused,) = report.refusals
    assert "count" in refused.reason


def test_a_call_does_not_fit_the_schema() -> None:
    text = "rule r { z = silu(x) => z' = acme.silu_and_mul(x) }"
    with pytest.raises(RuleError, match="E303"):
        loads(text, operators=[torch.ops.acme.silu_and_mul])


def test_what_is_not_granted_is_no_operator() -> None:
    with pytest.raises(RuleError, match=r"E201.*acme\.silu_and_mul") as error:
        loads(FUSE)
    assert "operators=[torch.ops.acme.silu_and_mul]" in str(error.value)


def test_only_operators_are_granted() -> None:
    with pytest.raises(TypeError, match="expected an operator"):
        loads(FUSE, operators=[nn.functional.silu])  # type: ignore[list-item]
