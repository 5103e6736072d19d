"""Helpers for tests of rewrites: snapshots of graphs, equivalence of two models, and
random graphs in which a rule fires.

Needs syrupy (`pip install 'rewrite-engine[test]'`). The fixture `graph_snapshot` of
the pytest plugin compares a graph with the text file stored beside the test:

    def test_my_pass(graph_snapshot):
        assert my_pass(model) == graph_snapshot

`planted_graphs` fuzzes rules with hypothesis:

    @given(planted_graphs(load("my.rules")))
    def test_my_rules(planted):
        planted.check()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from torch import fx
from torch.export import ExportedProgram

from rewrite_engine.equivalence import assert_equivalent
from rewrite_engine.graph_text import graph_text
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.noise import Noise
from rewrite_engine.verification.planted import Planted
from rewrite_engine.verification.planting import Planter

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "GraphSnapshotExtension",
    "Noise",
    "Planted",
    "assert_equivalent",
    "planted_graphs",
]


class GraphSnapshotExtension(SingleFileSnapshotExtension):
    """Stores each snapshot as one text file; graphs are stored as `graph_text`."""

    _write_mode = WriteMode.TEXT
    file_extension = "txt"

    def serialize(self, data: Any, **options: Any) -> str:
        """The text of a GraphModule, of its graph, or of an ExportedProgram; text is
        taken as it is.
        """
        if isinstance(data, fx.Graph):
            data = data.owning_module or data
        is_graph = isinstance(data, fx.GraphModule | ExportedProgram)
        return graph_text(data) if is_graph else str(data)


def planted_graphs(
    rules: RuleSet, rule: str | None = None, noise: Noise | None = None
) -> SearchStrategy[Planted]:
    """Random graphs with an instance of one of the rules, or of `rule`, in each.

    Around it stand other calls: outside readers, views, in-place writes and random
    numbers, up to `noise` of each kind. Inputs come in any order, of size 0 and 1, not
    contiguous, and as integers, where the rule fires on those. `Planted.check` applies
    the rules and asserts that everything is as it should be.

    Raises: ImportError, if hypothesis is not installed; ValueError, if no inputs are
    found with which a rule fires (`engine.verify` says why).
    """
    try:
        from hypothesis import strategies
    except ImportError as error:
        message = "planted_graphs needs hypothesis: pip install 'rewrite-engine[test]'"
        raise ImportError(message) from error
    names = [each.name for each in rules] if rule is None else [rule]
    planters = [Planter(rules, name) for name in names]
    for planter in planters:
        if not planter.fires:
            raise ValueError(f"no inputs are known with which '{planter.rule}' fires")
    most = noise or Noise(writes=2, random=1)
    counts = {
        name: strategies.integers(0, count)
        for name, count in attrs.asdict(most).items()
    }
    planted: SearchStrategy[Any] = strategies.builds(
        Planter.plant,
        strategies.sampled_from(planters),
        strategies.integers(0, 2**32 - 1),
        strategies.builds(Noise, **counts),
    )
    return planted.filter(lambda found: found is not None)
