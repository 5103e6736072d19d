"""Python functions that the caller grants."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, loads
from rewrite_engine.cli import main
from rewrite_engine.errors import RuleError
from rewrite_engine.language_server.documents import Documents

USE = "use acme.hooks (f)\n"


def double(w: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
    assert w.dtype is torch.float64
    return w * factor


def granted(hook: Any) -> dict[str, Any]:
    return {"acme.hooks": {"f": hook}}


def codes(text: str, **given: Any) -> set[str]:
    with pytest.raises(RuleError) as error:
        loads(text, **given)
    return {found.code for found in error.value.diagnostics}


RULE = USE + "rule r once { y = linear(x, w, b?) => w <- f(w, $k)  keep y }"


def test_a_hook_computes_constants() -> None:
    rule = RULE.replace("$k", "3.0")
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3).half()))
    before = gm.get_submodule("0").weight.detach().clone()
    engine.apply(gm, loads(rule, hooks=granted(double)))
    after = gm.get_submodule("0").weight
    assert after.dtype is torch.float16
    assert torch.equal(after, (before.double() * 3).half())


def test_a_hook_cannot_reach_the_model() -> None:
    def erase(w: torch.Tensor) -> torch.Tensor:
        return w.zero_() + 1

    rule = RULE.replace("f(w, $k)", "w * f(w)")
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3)))
    before = gm.get_submodule("0").weight.detach().clone()
    engine.apply(gm, loads(rule, hooks=granted(erase)))
    assert torch.equal(gm.get_submodule("0").weight, before)


def test_a_hook_that_fails_refuses_the_match() -> None:
    def fail(w: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no statistics")

    rule = RULE.replace("f(w, $k)", "f(w)")
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3)))
    (refusal,) = (
        engine.apply(gm, loads(rule, hooks=granted(fail))).report.rules[0].refusals
    )
    assert refusal.reason == "a hook failed: RuntimeError: no statistics"


def test_hooks_are_granted_by_the_caller_only() -> None:
    assert codes(RULE.replace("$k", "1.0")) >= {"E212"}
    assert codes("use os (system)\n") == {"E212"}
    assert codes(USE, hooks={"acme.hooks": {"g": double}}) == {"E212"}


def test_hooks_are_typed() -> None:
    def untyped(w):  # type: ignore[no-untyped-def]
        return w

    def several(*ws: torch.Tensor) -> torch.Tensor:
        return ws[0]

    with pytest.raises(TypeError, match="not annotated to return"):
        loads(RULE, hooks=granted(untyped))
    with pytest.raises(TypeError, match="any number of arguments"):
        loads(RULE, hooks=granted(several))
    assert codes(RULE.replace("f(w, $k)", "f(w, 1.0, 2.0)"), hooks=granted(double)) == {
        "E301"
    }


def test_hooks_are_no_part_of_a_graph() -> None:
    built = USE + "rule r once { y = relu(x) => y' = f(x) }"
    matched = USE + "rule r once { y = f(x) => y' = x }"
    assert codes(built, hooks=granted(double)) == {"E406"}
    assert codes(matched, hooks=granted(double)) >= {"E407"}


def test_a_rule_set_with_hooks_is_pickled() -> None:
    rules = loads(RULE.replace("$k", "1.5"), hooks=granted(double))
    again = pickle.loads(pickle.dumps(rules))
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3)))
    assert engine.apply(gm, again).modified


def test_checking_takes_hooks_to_be_granted(tmp_path, capsys) -> None:
    path = tmp_path / "hooked.rules"
    path.write_text(RULE.replace("f(w, $k)", "f(w, factor=2.0)") + "\n")
    assert main(["check", str(path)]) == 0, capsys.readouterr().out
    documents = Documents()
    documents.put(path.as_uri(), path.read_text(), 1)
    assert documents.get(path.as_uri()).examination.findings == ()
    path.write_text(path.read_text().replace("f(w", "g(w"))
    assert main(["check", str(path)]) == 1
    with pytest.raises(RuleError, match="E212"):
        engine.load(path)
