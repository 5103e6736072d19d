"""Pytest fixtures, and the tests in rule files; torch is imported only by tests.

`pytest --rules` collects the `test` blocks of the `.rules` files among its paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion

    from rewrite_engine.dsl.checked import Test
    from rewrite_engine.ruleset import RuleSet


def pytest_addoption(parser: pytest.Parser) -> None:
    """Collecting rule files is asked for: not every one of a project is right."""
    group = parser.getgroup("rewrite_engine")
    text = "run the test blocks of .rules files"
    group.addoption("--rules", action="store_true", dest="rule_files", help=text)


@pytest.fixture
def graph_snapshot(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compares a graph, or text, with a file `__snapshots__/<test file>/<test>.txt`.

    `pytest --snapshot-update` writes the files.
    """
    from rewrite_engine.testing import GraphSnapshotExtension

    return snapshot.use_extension(GraphSnapshotExtension)


@pytest.fixture
def assert_equivalent() -> Callable[..., None]:
    """`rewrite_engine.testing.assert_equivalent`: two models do the same."""
    from rewrite_engine.testing import assert_equivalent

    return assert_equivalent


def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> pytest.Collector | None:
    """A rule file is a collection of its test blocks, if that is asked for."""
    # Registered late, by a conftest, the plugin has no options.
    if file_path.suffix != ".rules" or not parent.config.getoption("rule_files", False):
        return None
    return RuleFile.from_parent(parent, path=file_path)


class RuleFile(pytest.File):
    """A `.rules` file; its tests are its `test` blocks."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each block of this file, those of used files left out."""
        from rewrite_engine import engine
        from rewrite_engine.rule_tests import own_tests

        rules = engine.load(self.path)
        for block in own_tests(rules, self.path):
            yield RuleTest.from_parent(self, name=block.title, rules=(rules, block))


class RuleTest(pytest.Item):
    """One `test` block."""

    def __init__(
        self, *, rules: tuple[RuleSet, Test], name: str, parent: pytest.Collector
    ) -> None:
        super().__init__(name, parent)
        self._rules, self._block = rules

    def runtest(self) -> None:
        """Raises RuleTestFailure, with what was expected and what happened."""
        from rewrite_engine.rule_tests import run_test

        outcome = run_test(self._block, self._rules)
        if not outcome.passed:
            raise RuleTestFailure(outcome.message)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None
    ) -> str:
        """The message alone, at its place: there is no Python to be shown."""
        if isinstance(excinfo.value, RuleTestFailure):
            path, line, _ = self.reportinfo()
            return f"{path}:{line + 1}: {excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the block begins: path, line from 0, title."""
        start = self._block.span.start
        return self.path, self._block.source.position(start).line - 1, self.name


class RuleTestFailure(Exception):  # noqa: N818 - a failure is not an error for pytest
    """A `test` block does not hold."""
