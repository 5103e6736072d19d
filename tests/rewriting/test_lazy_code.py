"""Code that is generated when it is needed is the code of an eager recompilation."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule, _use_lazy_graph_module

from rewrite_engine import engine, loads
from rewrite_engine.rewriting import lazy_code, run
from rewrite_engine.rewriting.lazy_code import recompile_when_needed

RULES = loads("rule square once { y = pow(x, 2) => y' = mul(x, x) }")
X = torch.tensor([1.0, -2.0, 3.0])


class Model(nn.Module):
    def forward(self, x, scale=2.0):  # type: ignore[no-untyped-def]
        return torch.pow(x, 2) * scale


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The modules whose code was generated, in order."""
    found: list[fx.GraphModule] = []
    generate = lazy_code.recompile

    def generated(module: fx.GraphModule) -> None:
        found.append(module)
        generate(module)

    monkeypatch.setattr(lazy_code, "recompile", generated)
    return found


def lazily() -> fx.GraphModule:
    gm = fx.symbolic_trace(Model())
    assert engine.apply(gm, RULES, recompile="lazy").modified
    return gm


def eagerly() -> fx.GraphModule:
    gm = fx.symbolic_trace(Model())
    assert engine.apply(gm, RULES).modified
    return gm


USES: dict[str, Callable[[fx.GraphModule], Any]] = {
    "call": lambda gm: gm(X),
    "call with keywords": lambda gm: gm(x=X, scale=3.0),
    "code": lambda gm: gm.code,
    "private code": lambda gm: gm._code,
    "line numbers": lambda gm: gm._lineno_map,
    "signature": lambda gm: str(inspect.signature(gm.forward)),
    "signature of the class": lambda gm: str(inspect.signature(type(gm).forward)),
    "explicit": lambda gm: (gm.recompile(), gm.code)[1],
    "deep copy": lambda gm: copy.deepcopy(gm)(X),
    "copy": lambda gm: copy.copy(gm)(X),
    "pickle": lambda gm: pickle.loads(pickle.dumps(gm))(X),
    "trace": lambda gm: str(fx.symbolic_trace(gm).graph),
    "export": lambda gm: str(torch.export.export(gm, (X,)).graph),
    "interpreter": lambda gm: fx.Interpreter(gm).run(X),
    "text": str,
}


@pytest.mark.parametrize("use", USES)
def test_uses(use: str) -> None:
    gm, expected = lazily(), eagerly()
    outcome, wanted = USES[use](gm), USES[use](expected)
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(outcome, wanted)
    else:
        assert outcome == wanted
    assert gm.code == expected.code
    assert inspect.isfunction(vars(type(gm))["forward"])
    assert vars(gm).keys() == vars(expected).keys()


def test_code_is_generated_once_and_only_when_needed(
    compiled: list[fx.GraphModule],
) -> None:
    gm = lazily()
    gm.graph.lint()
    assert gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert not compiled
    gm(X), gm(X), gm.code
    assert compiled == [gm]


def test_one_generation_for_several_passes(compiled: list[fx.GraphModule]) -> None:
    gm = lazily()
    back = loads("rule back once { y = mul(x, x) => y' = pow(x, 2) }")
    engine.apply(gm, back, recompile="lazy")
    assert not compiled
    assert torch.equal(gm(X), Model()(X))
    assert compiled == [gm]


def test_an_eager_run_after_a_lazy_one() -> None:
    gm = lazily()
    engine.apply(gm, loads("rule t once { y = mul(x, x) => y' = tanh(x) }"))
    assert torch.equal(gm(X), X.tanh() * 2)
    assert not any(isinstance(v, lazy_code._Generated) for v in vars(type(gm)).values())


def test_a_failure_leaves_the_old_code(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = fx.symbolic_trace(Model())
    code, forward, text = gm.code, type(gm).forward, str(gm.graph)

    def failing(module: fx.GraphModule) -> None:
        recompile_when_needed(module)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "recompile_when_needed", failing)
    with pytest.raises(KeyboardInterrupt):
        engine.apply(gm, RULES, recompile="lazy")
    assert (gm.code, type(gm).forward, str(gm.graph)) == (code, forward, text)
    assert torch.equal(gm(X), Model()(X))


def test_code_that_cannot_be_generated_says_so_every_time() -> None:
    gm = lazily()
    gm.graph.output_node().target = "no such output"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_code, "recompile", lambda module: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                gm(X)
    gm.graph.output_node().target = "output"
    assert torch.equal(gm(X), eagerly()(X))


def test_a_module_that_is_lazy_in_its_own_way() -> None:
    with _use_lazy_graph_module(True):
        gm = fx.symbolic_trace(Model())
    assert isinstance(gm, _LazyGraphModule)
    engine.apply(gm, RULES, recompile="lazy")
    assert gm._needs_recompile()
    assert torch.equal(gm(X), eagerly()(X))


def test_a_module_may_go_before_its_code_was_needed() -> None:
    gm = lazily()
    kind = type(gm)
    del gm
    gc.collect()
    with pytest.raises(AttributeError):
        _ = kind.forward
