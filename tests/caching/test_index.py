"""An index as a value and as text."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from rewrite_engine.caching.index import (
    Demand,
    FileEntry,
    Index,
    RuleEntry,
    from_json,
    to_json,
)
from rewrite_engine.dsl.checked import Phase
from rewrite_engine.report import Report, RuleReport
from rewrite_engine.source import Span

A, B, C = frozenset({"a"}), frozenset({"b", "bb"}), frozenset({"c"})


def needing(*ways: set[int], makes: set[int] = frozenset()) -> Demand:  # type: ignore[assignment]
    return Demand(frozenset(map(frozenset, ways)), frozenset(makes))


INDEX = Index(
    files=(FileEntry("1f", (Span(0, 4),)), FileEntry("2e", ())),
    uses=((0, "used.rules", 1),),
    places=(A, B, C),
    demands=(
        needing({0, 1}),
        needing({1}, {2}, makes={0}),
        needing({2}),
        needing(set()),
    ),
    rules=(
        RuleEntry("both", 0, Span(4, 9), 1, 0),
        RuleEntry("either", 1, Span(0, 5), 3, 1),
        RuleEntry("last", 0, Span(9, 12), 2, 2),
        RuleEntry("always", 0, Span(12, 13), 2, 3),
    ),
    phases=(),
)


def test_it_is_read_as_it_was_written() -> None:
    index = Index(
        **{
            f: getattr(INDEX, f)
            for f in ("files", "uses", "places", "demands", "rules")
        },
        phases=(Phase(True, ("both", "last")), Phase(False, ("both",))),
    )
    assert from_json(to_json(index)) == index
    assert from_json(to_json(index).encode()) == index


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (set(), {"always"}),
        ({"a"}, {"always"}),
        ({"bb"}, {"always", "either", "both"}),
        ({"c"}, {"always", "either", "last"}),
        ({"other", "c", "b"}, {"always", "either", "last", "both"}),
    ],
)
def test_rules_may_match_in_what_others_make(
    calls: set[str], expected: set[str]
) -> None:
    assert INDEX.possible(calls) == expected


def test_a_report_lists_all_rules_by_their_benefit() -> None:
    row = RuleReport("last", 3, 1, (), 0.5)
    report = INDEX.completed(Report((row,), 2.0))
    names = [rule.name for rule in report.rules]
    assert names == ["either", "last", "always", "both"]
    assert report.rules[1] is row and report.seconds == 2.0
    assert report.rules[0] == RuleReport("either", 0, 0, (), 0.0)


def test_digits_are_of_the_text() -> None:
    assert json.loads(to_json(INDEX))[0] == [["1f", [[0, 4]]], ["2e", []]]


FAULTS: dict[str, tuple[tuple[int, ...], Any]] = {
    "a rule in no file": ((4, 0, 1), 2),
    "a rule before the first file": ((4, 0, 1), -1),
    "a rule that demands nothing known": ((4, 0, 5), 4),
    "two rules of one name": ((4, 0, 0), "last"),
    "a use by no file": ((1, 0, 0), 2),
    "a use of no file": ((1, 0, 2), -1),
    "a call at no place": ((3, 1, 1), [3]),
    "a phase of no rule": ((5,), [[True, ["nothing"]]]),
    "a number for a name": ((4, 0, 0), 7),
    "a truth for a number": ((4, 0, 2), True),
    "a fraction": ((4, 0, 2), 1.0),
    "a word for a list": ((2, 0), "a"),
    "too much": ((4, 0), [*json.loads(to_json(INDEX))[4][0], 1]),
    "nothing": ((0,), None),
    "no files": ((), [[], [], [], [], [], []]),
}


@pytest.mark.parametrize(("place", "value"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_index_is_refused(place: tuple[int, ...], value: Any) -> None:
    whole = {"": copy.deepcopy(json.loads(to_json(INDEX)))}
    holder: Any = whole
    for key in ("", *place)[:-1]:
        holder = holder[key]
    holder[("", *place)[-1]] = value
    with pytest.raises(ValueError, match="index"):
        from_json(json.dumps(whole[""]))
