"""Rule files that are wrong, or hostile: refused with a position, and nothing else.

`pytest -m long tests/dsl/test_malformed.py` reads 100,000 mutations.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewrite_engine.dsl import loader
from rewrite_engine.errors import RuleError

ROOT = Path(__file__).parents[2]
LONG = pytest.mark.long
SHIPPED = sorted((ROOT / "rules").glob("*.rules"))


def run(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.dsl.malformed", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def assert_harmless(found: dict[str, Any], measured: Callable[..., None]) -> None:
    count = found["read"] + found["refused"]
    assert found["surprises"] == [] and found["events"] == []
    assert found["refused"] > count // 2 and found["read"] > count // 100
    assert found["slowest"] < 2 and found["megabytes"] < 500
    numbers = {"most_seconds": found["slowest"], "most_MiB": found["megabytes"]}
    measured("R10", texts=count, refused=found["refused"], **numbers)
    measured("R11", texts=count, forbidden_events=len(found["events"]))


@pytest.mark.figure("R10", "R11")
@pytest.mark.parametrize(
    ("seed", "count"),
    [
        *((seed, 6_600) for seed in range(8)),
        *(pytest.param(i, 20_000, marks=LONG) for i in range(8, 13)),
    ],
)
def test_mutations_are_refused_with_a_position_and_run_nothing(
    seed: int, count: int, measured: Callable[..., None]
) -> None:
    found = run(seed, count)
    assert found["read"] + found["refused"] == count
    assert_harmless(found, measured)


@pytest.mark.figure("R10", "R11")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_items_cut_off_at_every_character(
    path: Path, measured: Callable[..., None]
) -> None:
    found = run(path)
    assert found["read"] + found["refused"] > 3_000
    assert_harmless(found, measured)


@pytest.mark.figure("R10")
@pytest.mark.long
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_file_cut_off_at_every_character(path: Path) -> None:
    text = path.read_text()
    for end in range(len(text)):
        try:
            loader.load_text(text[:end])
        except RuleError as error:
            assert all(d.span.end <= end for d in error.diagnostics)


ATTACKS = {
    "a library is loaded": 'rule r { y = torch.ops.load_library("x.so") => y\' = y }',
    "attributes are walked": "rule r { y = aten.relu.__init__.__dict__(x) => y' = x }",
    "a file is created": 'rule r { y = relu(x) => y\' = aten.from_file("/tmp/f") }',
    "a file is read": 'use "/etc/passwd.rules"',
    "a folder above is read": 'use "../../secret.rules"',
    "Python is imported": "use os (system)",
    "a shell is called": 'rule r { y = os.system("id") => y\' = y }',
    "a builtin is called": 'rule r { y = eval("1") => y\' = y }',
    "an attribute getter": 'rule r { y = operator.attrgetter("x")(z) => y\' = z }',
    "a pickle is loaded": 'rule r { y = torch.load("x.pt") => y\' = y }',
    "a method of a dunder name": "rule r { y = .__reduce__(x) => y' = x }",
    "a name with code in it": "rule r { y = relu(x, **{'a': 1}) => y' = x }",
    "a key with code in it": 'rule r { y = relu(x) => y\' = relu(x, "a=b"=1) }',
    "metadata under a dunder": "rule r { y = relu(x) => y' = x meta x <- y {__a__} }",
}


@pytest.mark.figure("R11")
@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_are_refused(text: str) -> None:
    with pytest.raises(RuleError) as caught:
        loader.load_text(text)
    assert all(d.is_error for d in caught.value.diagnostics)


HUGE = {
    "brackets": "rule r { y = " + "(" * 5_000 + "x" + ")" * 5_000 + " => y' = x }",
    "calls": "rule r { y = " + "relu(" * 5_000 + "x" + ")" * 5_000 + " => y' = x }",
    "signs": "rule r { y = relu(x) => y' = mul(x, " + "-" * 50_000 + "1) }",
    "sums": "rule r { y = relu(x) => y' = mul(x, " + "1 + " * 20_000 + "1) }",
    "alternatives": "rule r { y = " + " | ".join(["relu(x)"] * 20_000) + " => y' = x }",
    "lists": "rule r { y = relu(x) => y' = cat(" + "[" * 9_000 + "]" * 9_000 + ") }",
    "logic": "rule r { y = relu(x) where " + "not " * 50_000 + "x is const => y' = x }",
    "a number": "rule r { y = add(x, " + "9" * 100_000 + ") => y' = x }",
    "a string": 'rule r { y = relu(x) where x is const else "'
    + "a" * 90_000
    + "\" => y' = x }",
    "statements": "rule r { " + "y = relu(y) " * 40_000 + "=> y' = x }",
    "words": "x " * 600_000,
    "a line": "#" * 2_000_000,
}


@pytest.mark.figure("R10")
@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE.keys())
def test_huge_files_are_refused(text: str) -> None:
    with pytest.raises(RuleError) as caught:
        loader.load_text(text)
    assert len(str(caught.value)) < 100_000
