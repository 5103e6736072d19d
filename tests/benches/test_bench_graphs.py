"""The benchmarks on graphs find what they say, and their tables and plots hold it."""

from __future__ import annotations

import json

import attrs
import pytest
import torch

from benches import __main__ as everything
from benches import memory, plots, report, rule_sets, runner
from benches.engines import EDIT, FULL, FULL_VALUES, MATCH, Stage, find
from benches.runner import Effort, Timing
from benches.workloads import WORKLOADS, Workload
from rewrite_engine import engine, loads

SECONDS = {"walk": 1e-4, "ours": 2e-4, "inductor": 4e-3, "torch.fx": 8e-3}
PEERS = {"match": 2, "edit": 3, "edit, values": 3, "full": 3, "full, values": 3}
TIMING = Timing("match", "chain", 1_000, 10, 5, SECONDS)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def chain():
    return rule_sets.chain(400)


def found_by(sequences, gm):
    rules = loads("\n".join(map(rule_sets.rule_text, sequences, range(10**6))))
    return find(gm, rules)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_workloads_are_rewritten_everywhere(workload):
    gm = workload.build(60)
    expected = workload.matches(gm.graph)
    report = engine.apply(gm, loads(workload.text)).report
    assert report.matches == expected
    assert workload.matches(gm.graph) == 0
    assert (expected == 0) == (workload.name == "near-misses")


def test_the_raw_edits_are_those_of_the_rule():
    (workload,) = (each for each in WORKLOADS if each.raw_edits is not None)
    gm, other = workload.build(60), workload.build(60)
    workload.raw_edits(gm)
    engine.apply(other, loads(workload.text))
    gm.graph.lint()
    assert str(gm.graph) == str(other.graph)


def test_rule_sets_of_any_size_have_equally_many_matches(chain):
    ten = rule_sets.rule_set(10, chain)
    many = rule_sets.rule_set(60, chain)
    assert set(ten) < set(many) and many[:10] != ten
    assert len(set(many)) == 60
    places = [match.anchor for match in found_by(ten, chain)]
    assert len(places) >= len(chain.graph.nodes) // rule_sets.LENGTH
    assert [match.anchor for match in found_by(many, chain)] == places
    for workload in rule_sets.planted(400, [10, 60]):
        assert workload.matches(chain.graph) == len(places)


@pytest.mark.parametrize("make", [rule_sets.missing, lambda n, gm: rule_sets.absent(n)])
def test_the_other_sets_match_nowhere(chain, make):
    sequences = make(40, chain)
    assert len(set(sequences)) == 40
    assert found_by(sequences, chain) == []


@pytest.mark.parametrize("stage", [FULL, FULL_VALUES], ids=lambda stage: stage.name)
def test_all_engines_rewrite_a_rule_set_and_make_its_code(stage: Stage):
    (workload,) = rule_sets.planted(60, [3])
    graphs = []
    for make in stage.engines.values():
        gm = workload.build(60)
        stage.prepare(gm)
        make(workload)(gm)
        graphs.append([node.target for node in gm.graph.nodes])
        assert "hardtanh" in gm.code
    assert len(graphs) == 4
    assert all(graph == graphs[0] for graph in graphs)


def test_an_engine_that_leaves_matches_is_not_timed():
    stage = attrs.evolve(EDIT, engines={"ours": lambda workload: lambda gm: None})
    with pytest.raises(RuntimeError, match="ours left 19 matches of every node"):
        runner.measure(stage, WORKLOADS[3], 60, Effort(runs=1))


def test_slow_engines_are_run_less_often():
    ran = []

    def peer(workload: Workload):
        return lambda gm: ran.append(workload.name)

    stage = attrs.evolve(MATCH, engines={**MATCH.engines, "inductor": peer})
    runner.measure(stage, WORKLOADS[6], 60, Effort(runs=4, patience=0.0))
    assert len(ran) == 1
    runner.measure(stage, WORKLOADS[6], 60, Effort(runs=4, peers_up_to=50))
    assert len(ran) == 1


def test_a_run_allocates_some_memory_for_each_new_node():
    found = memory.measure(WORKLOADS[3], 300)
    assert (found.nodes, found.created) == (301, 99)
    assert 500 < found.peak < 20_000
    assert found.kept < found.peak


def test_everything_runs_on_small_graphs(capsys, tmp_path):
    saved, drawn = tmp_path / "figures.json", tmp_path / "new"
    everything.main(["--tiny", "--figures", str(drawn), "--json", str(saved)])
    tables = capsys.readouterr().out.strip().split("\n\n")
    (head, _, *rows), growth, memory_rows = (table.splitlines() for table in tables)
    assert head.split(" | ")[1:4] == ["workload", "nodes", "rules"]
    stages = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert stages[:11] == ["match"] * 11 and stages[11:18] == ["edit"] * 7
    assert {"edit, values", "full", "full, values"} < set(stages)
    assert [row.count("×") for row in rows] == [PEERS[stage] for stage in stages]
    assert len(growth) == 2 + len(WORKLOADS) and len(memory_rows) == 3
    figures = json.loads(saved.read_text())
    assert len(figures["timings"]) == len(rows)
    assert len(figures["growth"]) == 2 * len(WORKLOADS)
    assert (drawn / "match.svg").read_text().count('class="bar"') == 2 * 11
    assert (drawn / "edit.svg").read_text().count('class="bar"') == 3 * 8
    assert "<polyline" in (drawn / "growth.svg").read_text()


def test_a_row_holds_what_was_timed(capsys, monkeypatch):
    monkeypatch.setattr(runner, "measured", lambda plans, effort: iter(plans))
    report.report(report.options("", ["--tiny"]), [TIMING])
    _, _, row = capsys.readouterr().out.splitlines()
    counts, peers = ["1,000", "10", "5"], ["0.2", "2", "-", "20×", "-", "40×"]
    assert row.strip("| ").split(" | ") == ["match", "chain", *counts, *peers]


def test_linear_growth_is_a_straight_line_of_exponent_one():
    timings = [
        attrs.evolve(TIMING, stage="edit", nodes=nodes, seconds={"ours": nodes * 2e-7})
        for nodes in (1_000, 10_000, 100_000)
    ]
    assert report.exponent(timings) == pytest.approx(1.0)
    figure = report.figures([], timings)["growth"]
    points = figure.partition('points="')[2].partition('"')[0].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert "100,000 nodes" in figure


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.9871, "0.987×"), (12.34, "12.3×"), (1284.0, "1,284×")]
)
def test_ratios_are_easy_to_read(ratio, text):
    assert plots.times(ratio) == text


def test_labels_are_escaped():
    assert "a &lt; b" in plots.bars("t", [("a < b", {"s": 2.0})])
