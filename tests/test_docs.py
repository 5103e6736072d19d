"""What the documentation says is executed, and the files it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rewrite_engine import engine, loads
from rewrite_engine.dsl import loader
from rewrite_engine.rule_tests import run_tests

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "grammar/README.md", ROOT / "rules/README.md"]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.S)


EXAMPLES = blocks(ROOT / "README.md", "python")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_run(number: int) -> None:
    exec(compile(EXAMPLES[number], "README.md", "exec"), {})


def test_a_migration_takes_ten_lines() -> None:
    (example,) = (each for each in EXAMPLES if "prepare_qat_pt2e" in each)
    assert len(re.findall(r"^.+$", example, flags=re.M)) == 10


def test_the_readme_starts_with_the_two_commands() -> None:
    commands = blocks(ROOT / "README.md", "bash")[:2]
    setup = "python3 -m venv .venv && .venv/bin/python -m pip install -q "
    assert commands[0].strip() == f"{setup}. && .venv/bin/python -m rewrite_engine demo"
    tests = f"{setup}'.[test]' && .venv/bin/python -m pytest -q tests"
    assert commands[1].strip() == tests
    assert tests in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [
        link
        for link in links
        if "://" not in link and not (path.parent / link).exists()
    ]
    assert not missing


WORKED = blocks(ROOT / "rules/README.md", "rules")


def test_there_are_ten_worked_examples() -> None:
    assert len(WORKED) == 10


@pytest.mark.parametrize("number", range(len(WORKED)))
def test_a_worked_example_is_right(number: int) -> None:
    name = f"example {number + 1}"
    assert loader.check_text(WORKED[number], name) == ()
    rules = loads(WORKED[number], name)
    outcomes = run_tests(rules)
    assert outcomes and all(outcome.passed for outcome in outcomes), outcomes
    if number < len(WORKED) - 1:  # the last one is said to differ in gradients
        found = engine.verify(rules, trials=6)
        assert found.passed and not found.diagnostics, str(found)
