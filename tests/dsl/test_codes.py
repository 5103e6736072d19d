"""Every code: its page, its examples, and the rendered message of its case file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewrite_engine import engine, load
from rewrite_engine.dsl import codes, loader
from rewrite_engine.errors import Diagnostic, RuleError, render

ROOT = Path(__file__).parents[2]
DSL = ROOT / "rewrite_engine" / "dsl"
LOWERING = ROOT / "rewrite_engine" / "lowering"
VERIFICATION = ROOT / "rewrite_engine" / "verification"
REJECT = ROOT / "tests" / "cases" / "reject"
CASES = sorted(path.stem for path in REJECT.glob("*.rules"))
PAGES = list(codes.codes().values())

# A byte order mark is invisible on a page, and 10,000 rules do not fit on one.
WITHOUT_EXAMPLE = {"E108", "E508"}
# Too long for a case; `test_loader` has it.
WITHOUT_CASE = {"E508"}


def codes_in_source() -> Iterator[str]:
    for path in (
        p for folder in (DSL, LOWERING, VERIFICATION) for p in folder.glob("*.py")
    ):
        yield from re.findall(r'"([EW]\d{3})"', path.read_text())


def findings(path: str | Path, code: str) -> tuple[Diagnostic, ...]:
    """What checking a file finds or, if nothing is wrong so far, loading it.

    The codes of verification are found by running the rules.
    """
    found = loader.check_file(path)
    if any(each.is_error for each in found):
        return found
    try:
        rules = load(path)
    except RuleError as error:
        return error.diagnostics
    if not code[1:].startswith("6"):
        return found
    return (*found, *engine.verify(rules, trials=10).diagnostics)


def codes_of(path: Path, code: str) -> set[str]:
    return {found.code for found in findings(path, code)}


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert set(codes_in_source()) == set(codes.codes())


def test_no_two_codes_share_a_name() -> None:
    assert len({page.name for page in PAGES}) == len(PAGES)


def test_every_code_has_a_case() -> None:
    assert set(CASES) == set(codes.codes()) - WITHOUT_CASE


@pytest.mark.parametrize("name", CASES)
def test_the_case_of_a_code(
    name: str, monkeypatch: pytest.MonkeyPatch, graph_snapshot: Any
) -> None:
    monkeypatch.chdir(REJECT)
    found = findings(f"{name}.rules", name)
    assert name in {each.code for each in found}
    assert render(found) + "\n" == graph_snapshot


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.code)
def test_the_examples_of_a_page(page: codes.Code, tmp_path: Path) -> None:
    if page.code in WITHOUT_EXAMPLE:
        assert page.wrong == page.right == ""
        return
    path = tmp_path / "example.rules"
    path.write_text(page.wrong)
    assert codes_of(path, page.code) == {page.code}
    path.write_text(page.right)
    assert codes_of(path, page.code) == set()


def test_a_page_is_explained() -> None:
    page = codes.explain("E301")
    assert page is not None
    assert page.startswith("E301 too-many-operands\n\nA call has more positional")
    assert "Wrong:\n\n    rule r" in page
    assert codes.explain("E999") is None


def test_a_summary_is_one_sentence() -> None:
    assert codes.codes()["E211"].summary == (
        "A file uses itself, directly or through others."
    )
    assert all("\n" not in page.summary for page in PAGES)
