"""Pytest fixtures; torch is imported only by tests that use one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion


@pytest.fixture
def graph_snapshot(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compares a graph, or text, with a file `__snapshots__/<test file>/<test>.txt`.

    `pytest --snapshot-update` writes the files.
    """
    from rewrite_engine.testing import GraphSnapshotExtension

    return snapshot.use_extension(GraphSnapshotExtension)
