"""What torch's own code warns of reaches Python, and so the filters of the user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rewrite_engine import engine, loads
from rewrite_engine.torch_warnings import heard

IMAGINARY = "discards the imaginary part"


@pytest.fixture(autouse=True)
def _warn_always() -> Iterator[None]:
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def cast() -> torch.Tensor:
    number = torch.ones(2, dtype=torch.complex64)
    return torch.ops.aten.to.dtype(number, torch.float32)


def test_a_warning_of_an_overload_is_one_of_python(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.warns(UserWarning, match=IMAGINARY):
        assert torch.equal(heard(cast), torch.ones(2))
    assert capfd.readouterr().err == ""


def test_errors_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        heard(lambda: 1 // 0)


def test_verification_prints_no_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    rules = loads("""
    rule r once exact {
      y = to_dtype(neg(x), $d)
      where x: c64, $d == torch.float32
    =>
      y' = neg(to_dtype(x, $d))
    }
    """)
    (found,) = engine.verify(rules, trials=0).rules
    assert found.compared > 0
    assert capfd.readouterr().err == ""
