"""Where the names of rule files stand, and what they stand for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl.loader import Unit, examine
from rewrite_engine.dsl.symbols import Occurrence, symbols_of
from rewrite_engine.source import Source

CASES = Path(__file__).parents[1] / "cases"
FILES = sorted([*rules_directory().glob("*.rules"), *CASES.rglob("*.rules")])


def unit_of(text: str, path: Path | None = None) -> Unit:
    return examine(Source(str(path or "<text>"), text), path).unit


def occurrences(text: str, path: Path | None = None) -> tuple[Occurrence, ...]:
    unit = unit_of(text, path)
    return symbols_of(unit.scope, unit.items)


def places(text: str, marked: str) -> list[str]:
    """Where the name at `|` of an excerpt stands, as `line:column`."""
    source = Source("<text>", text)
    start = text.index(marked.replace("|", "")) + marked.index("|")
    found = occurrences(text)
    (symbol,) = {o.symbol for o in found if o.span.start <= start < o.span.end}
    positions = [source.position(o.span.start) for o in found if o.symbol == symbol]
    return [f"{position.line}:{position.column}" for position in positions]


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_symbol_stands_where_its_name_is_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    found = occurrences(text, path)
    for each in found:
        assert text[each.span.start : each.span.end] == each.symbol.name
    assert all(a.span.end <= b.span.start for a, b in pairwise(found))


def test_all_places_of_a_name_of_a_rule() -> None:
    text = (
        "rule r {\n  y = relu(x)  # y\n  z = N@relu(y)\n  where uses(y) == 1\n=>\n"
        "  t = neg(x)\n  y' = t\n  z' = N(add(y', t), ..y)\n  meta t <- y {y}\n}\n"
    )
    expected = ["2:3", "3:14", "4:14", "7:3", "8:14", "8:24", "9:13"]
    assert places(text, "|y = relu(x)") == expected
    assert places(text, "|N@") == ["3:7", "8:8"]
    assert places(text, "|x)") == ["2:12", "6:11"]


def test_a_callee_is_the_family_s_a_capture_or_a_definition() -> None:
    text = (
        "family F(op, $k) = (aten.relu.default, 1)\nop mine = aten.relu.default\n"
        "rule r for (op, $k) in F { y = op(mine(x), ..) where $k == 1 => y' = mine(x) }"
    )
    assert places(text, "for (|op") == ["3:13", "3:32"]
    assert places(text, "op |mine") == ["2:4", "3:35", "3:70"]
    assert places(text, "family |F") == ["1:8", "3:24"]
    assert places(text, "for (op, $|k") == ["3:18", "3:55"]


def test_in_a_pattern_a_literal_and_a_value_are_two_names() -> None:
    text = "pattern p(v) = relu(mul(v, $s)) | relu(mul(s, v))\n"
    assert places(text, "$|s") == ["1:29"]
    assert places(text, "(|s, v") == ["1:44"]
    assert places(text, "p(|v") == ["1:11", "1:25", "1:47"]


def test_an_item_may_be_called_like_its_kind() -> None:
    text = "op op = aten.relu.default\nrule rule { y = op(x) => y' = x }\n"
    assert places(text, "op |op") == ["1:4", "2:17"]
    assert places(text, "rule |rule") == ["2:6"]


def test_names_of_a_test() -> None:
    text = (
        'rule r { y = relu(relu(x)) => y\' = relu(x) }\ntest "r" {\n'
        "  given (x: f32[2]) { y = relu(x) return relu(y) }\n"
        '  expect r * 1, refused r "r"\n}\n'
    )
    assert places(text, "rule |r") == ["1:6", "4:10", "4:25"]
    assert places(text, "given (|x") == ["3:10", "3:32"]


def test_names_of_used_files(tmp_path: Path) -> None:
    (tmp_path / "a.rules").write_text("op a = aten.relu.default\n")
    text = 'use "a.rules" (a)\nrule r { y = a(x) => y\' = x }\n'
    found = [
        o for o in occurrences(text, tmp_path / "user.rules") if o.symbol.name == "a"
    ]
    assert [o.span.start for o in found] == [15, 31]
    assert {o.symbol.source.name for o in found} == {str(tmp_path / "a.rules")}


def test_what_is_wrong_elsewhere_hides_nothing() -> None:
    text = (
        "op a = = b\nop c = aten.relu.default\nrule r { y = c(x) => y' = unknown(x) }\n"
    )
    assert places(text, "op |c") == ["2:4", "3:14"]
