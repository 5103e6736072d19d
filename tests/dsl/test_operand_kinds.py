"""Operands that a schema takes, compared with what torch takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu

from rewrite_engine.dsl import loader
from rewrite_engine.dsl.catalog import default_catalog
from rewrite_engine.dsl.operand_kinds import WRAPPING, Kind, takes

SQUARE = torch.ones(2, 2)
IMAGE = torch.ones(1, 1, 3, 3)

VALUES: dict[Kind, Any] = {
    "bool": True,
    "int": 1,
    "float": 0.5,
    "str": "none",
    "none": None,
    "ScalarType": torch.float32,
    "Layout": torch.strided,
    "MemoryFormat": torch.preserve_format,
    "tensor": SQUARE,
    ("int", "int"): [1, 0],
    ("float",): [0.5],
    ("tensor", "tensor"): [SQUARE, SQUARE],
    ("tensor", "int"): [SQUARE, 1],
}

CALLS: dict[str, Callable[[Any], Any]] = {
    "bool": lambda v: torch.sum(SQUARE, [0], v),
    "int": lambda v: torch.softmax(SQUARE, v),
    "float": lambda v: torch.dropout(SQUARE, v, True),
    "Scalar": lambda v: torch.add(SQUARE, SQUARE, alpha=v),
    "str": lambda v: gelu(SQUARE, approximate=v),
    "Tensor": lambda v: torch.maximum(SQUARE, v),
    "Tensor[]": lambda v: torch.cat(v),
    "int[]": lambda v: torch.permute(SQUARE, v),
    "SymInt[2]": lambda v: torch.conv2d(IMAGE, IMAGE, None, v),
    "int[1]?": lambda v: torch.mean(SQUARE, v),
    "ScalarType?": lambda v: torch.zeros_like(SQUARE, dtype=v),
    "Layout?": lambda v: torch.zeros_like(SQUARE, layout=v),
    "MemoryFormat?": lambda v: torch.clone(SQUARE, memory_format=v),
}
"""A function of torch with a parameter of each type."""

LENIENT: set[tuple[str, Kind]] = {
    # Functions are stricter here than overloads, which take them.
    ("bool", "int"),
    ("int", "bool"),
    ("SymInt[2]", "bool"),
    ("int[1]?", "bool"),
}


def torch_takes(call: Callable[[Any], Any], value: Any) -> bool:
    try:
        call(value)
    except TypeError:
        return False
    except (RuntimeError, IndexError, ValueError):
        return True  # of a type that it takes, and wrong for these operands
    return True


@pytest.mark.parametrize("declared", CALLS)
def test_a_type_takes_what_torch_takes(declared: str) -> None:
    found = {kind: takes(declared, kind) for kind in VALUES}
    taken = {k: torch_takes(CALLS[declared], v) for k, v in VALUES.items()}
    assert found == taken | {kind: True for name, kind in LENIENT if name == declared}


@pytest.mark.parametrize(
    "built",
    [
        "conv2d(x, w, none, 2)",
        "conv2d(x, w, none, [1, 1], 0)",
        'conv2d(x, w, padding="same")',
        "mul(x, 2) + mul(2.5, x)",
        "add(x, w, alpha=n)",
        "add(x, w, alpha=rank(x))",
        "reshape(x, [-1, n])",
        "reshape(x, shape(w))",
        "cat(n, 1)",
        "clamp(x, none, 6)",
        "dropout(x, 1, false)",
        "softmax(x, $k)",
        "to_dtype(x, torch.float16)",
        "linear(x, w, w if $k == 0 else none)",
    ],
)
def test_what_may_be_right_is_not_reported(built: str) -> None:
    left = "y = mul(matmul(x, w), n)  z = sum(x, $k)"
    text = f"rule r once {{ {left} => y' = {built}  keep z }}"
    assert [str(d) for d in loader.check_text(text) if d.is_error] == []


@pytest.mark.parametrize(
    ("built", "message"),
    [
        ("add(x, w, alpha=x)", "`alpha` of `aten.add.Tensor` is `Scalar`"),
        ("add(x, w, alpha=relu(x))", "`alpha` of `aten.add.Tensor` is `Scalar`"),
        ("cat(x, 1)", "`tensors` of `aten.cat.default` is `Tensor[]`"),
        ("x + none", "`other` of `aten.add.Tensor` is `Tensor`"),
        ("maximum(x, 0)", "`other` of `aten.maximum.default` is `Tensor`"),
    ],
)
def test_a_wrong_operand_of_a_new_call(built: str, message: str) -> None:
    text = f"rule r once {{ y = matmul(x, w) => y' = {built} }}"
    (found,) = loader.check_text(text)
    assert (found.code, found.message.partition(",")[0]) == ("E305", message)


def test_numbers_take_the_place_of_tensors_where_torch_wraps_them() -> None:
    names = {p.split(".")[1] for p in default_catalog().paths() if p[:5] == "aten."}
    wrapping = {n for n in names if torch._C._should_allow_numbers_as_tensors(n)}
    # Not by calls that a rule could build: casts of the dispatcher.
    assert wrapping - {"_conj", "_to_copy", "to"} == WRAPPING
