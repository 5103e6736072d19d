"""Helpers for tests of rewrites: snapshots of graphs, and equivalence of two models.

Needs syrupy (`pip install 'rewrite-engine[test]'`). The fixture `graph_snapshot` of
the pytest plugin compares a graph with the text file stored beside the test:

    def test_my_pass(graph_snapshot):
        assert my_pass(model) == graph_snapshot
"""

from __future__ import annotations

from typing import Any

from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from torch import fx
from torch.export import ExportedProgram

from rewrite_engine.equivalence import assert_equivalent
from rewrite_engine.graph_text import graph_text

__all__ = ["GraphSnapshotExtension", "assert_equivalent"]


class GraphSnapshotExtension(SingleFileSnapshotExtension):
    """Stores each snapshot as one text file; graphs are stored as `graph_text`."""

    _write_mode = WriteMode.TEXT
    file_extension = "txt"

    def serialize(self, data: Any, **options: Any) -> str:
        """The text of a GraphModule or ExportedProgram; text is taken as it is."""
        is_graph = isinstance(data, fx.GraphModule | ExportedProgram)
        return graph_text(data) if is_graph else str(data)
