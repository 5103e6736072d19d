"""Rules in front of a backend of `torch.compile`."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import rewrite_engine
from rewrite_engine import loads

ROOT = Path(__file__).parents[2]
TEXT = "rule r { z = tanh(x) => z' = mul(x, 2.0) }"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def entry_point() -> Any:
    """The backend that `torch.compile` finds once the package is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    path = project["entry-points"]["torch_dynamo_backends"]["rewrite_engine"]
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def test_graphs_are_rewritten_before_they_are_handed_on() -> None:
    seen: list[fx.GraphModule] = []

    def inner(module: fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        seen.append(module)
        return module.forward

    chosen = rewrite_engine.backend(loads(TEXT), inner=inner)
    x = torch.randn(4)
    result = torch.compile(torch.tanh, backend=chosen)(x)
    torch.testing.assert_close(result, x * 2)
    (module,) = seen
    assert not any("tanh" in str(node.target) for node in module.graph.nodes)


def test_a_path_and_the_name_of_a_backend(tmp_path) -> None:
    path = tmp_path / "a.rules"
    path.write_text(TEXT)
    chosen = rewrite_engine.backend(path, inner="eager")
    x = torch.randn(4)
    torch.testing.assert_close(torch.compile(torch.tanh, backend=chosen)(x), x * 2)


def test_gradients_flow_through_what_was_rewritten() -> None:
    chosen = rewrite_engine.backend(loads(TEXT), inner="aot_eager")
    x = torch.randn(4, requires_grad=True)
    torch.compile(torch.tanh, backend=chosen)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((4,), 2.0))


def test_the_entry_point_takes_its_settings_as_options(tmp_path) -> None:
    path = tmp_path / "a.rules"
    path.write_text(TEXT)
    options = {"rules": str(path), "inner": "eager"}
    compiled = torch.compile(torch.tanh, backend=entry_point(), options=options)
    x = torch.randn(4)
    torch.testing.assert_close(compiled(x), x * 2)
