"""Rules as a pass of inductor: what is compiled, what is cached, what is restored."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import fx
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.custom_graph_pass import get_custom_graph_passes

from rewrite_engine import GraphError, loads
from rewrite_engine.ruleset import RuleSet


def rules(product: str = "mm(y, x)") -> RuleSet:
    """Wrong on purpose, so that one sees in the numbers that it was applied.

    Matrix products are library calls, for which no kernel has to be compiled.
    """
    return loads(f"rule r once {{ z = mm(x, y) => z' = {product} }}")


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Iterator[None]:
    """An empty cache, and nothing compiled before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    counters.clear()
    with config.patch(fx_graph_cache=True, fx_graph_remote_cache=False):
        yield
    torch._dynamo.reset()


def compiled(chosen: RuleSet, *inputs: torch.Tensor) -> torch.Tensor:
    torch._dynamo.reset()
    with chosen.inductor_pass(), torch.no_grad():
        return torch.compile(torch.mm)(*inputs)


def test_the_cache_is_hit_by_the_same_rules_and_missed_by_others(fresh) -> None:
    x, y = torch.randn(2, 8, 8)

    def hits_and_misses() -> tuple[int, int]:
        found = counters["inductor"]
        return found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]

    torch.testing.assert_close(compiled(rules(), x, y), y @ x)
    assert hits_and_misses() == (0, 1)
    torch.testing.assert_close(compiled(rules(), x, y), y @ x)
    assert hits_and_misses() == (1, 1)
    torch.testing.assert_close(compiled(rules("mm(x, x)"), x, y), x @ x)
    assert hits_and_misses() == (1, 2)


def test_it_is_added_to_what_is_there_and_taken_away_again() -> None:
    def another(graph: fx.Graph) -> None: ...

    with config.patch(post_grad_custom_pre_pass=another):
        with (
            rules().inductor_pass() as outer,
            rules("mm(x, x)").inductor_pass() as inner,
        ):
            found = get_custom_graph_passes(config.post_grad_custom_pre_pass)
            assert found == (another, outer, inner)
        assert config.post_grad_custom_pre_pass is another
    assert config.post_grad_custom_pre_pass is None


def test_the_setting_is_restored_after_an_error() -> None:
    with pytest.raises(RuntimeError), rules().inductor_pass():
        raise RuntimeError
    assert config.post_grad_custom_pre_pass is None


def test_another_stage() -> None:
    with rules().inductor_pass("joint_custom_post_pass") as chosen:
        assert config.joint_custom_post_pass == (chosen,)
        assert config.post_grad_custom_pre_pass is None
    assert config.joint_custom_post_pass is None


def test_the_identity_is_that_of_the_content() -> None:
    one, same, other = rules(), rules(), rules("mm(x, x)")
    ids = [each.inductor_pass().uuid() for each in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]
    assert one.inductor_pass("joint_custom_pre_pass").uuid() not in ids
    restored = pickle.loads(pickle.dumps(one.inductor_pass()))
    assert restored.uuid() == ids[0]
    assert copy.copy(restored).rules == one


def test_a_graph_without_a_module_is_refused() -> None:
    with pytest.raises(GraphError):
        rules().inductor_pass()(fx.Graph())
