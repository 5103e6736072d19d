"""The benchmark of matching finds what it says, and its tables and plots hold it."""

from __future__ import annotations

import json

import attrs
import pytest
import torch

from benches import __main__ as everything
from benches import bench_match, plots, rule_sets
from rewrite_engine import loads

TIMING = bench_match.Timing("chain", 1000, 10, 5, 1e-4, 2e-4, 4e-3, 8e-3)


@pytest.fixture(scope="module")
def chain():
    return rule_sets.chain(400)


def found_by(sequences, gm):
    rules = loads("\n".join(map(rule_sets.rule_text, sequences, range(10**6))))
    return bench_match.find(gm, rules)


def test_rule_sets_of_any_size_have_equally_many_matches(chain):
    ten = rule_sets.rule_set(10, chain)
    many = rule_sets.rule_set(60, chain)
    assert many[:10] == ten
    assert len(set(many)) == 60
    places = [(m.rule.name, m.anchor) for m in found_by(ten, chain)]
    assert len(places) >= len(chain.graph.nodes) // rule_sets.LENGTH
    assert [(m.rule.name, m.anchor) for m in found_by(many, chain)] == places


@pytest.mark.parametrize("make", [rule_sets.missing, lambda n, gm: rule_sets.absent(n)])
def test_the_other_sets_match_nowhere(chain, make):
    sequences = make(40, chain)
    assert len(set(sequences)) == 40
    assert found_by(sequences, chain) == []


def test_bench_match_writes_its_figures(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_match, "measured", lambda *given: iter([TIMING]))
    bench_match.main(["--tiny", "--json", str(tmp_path / "figures.json")])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["workload", "nodes", "rules", "matches"]
    ours, peers = ["0.10", "0.200", "2.00"], ["4.0", "20", "8.0", "40"]
    assert row.split() == ["chain", "1000", "10", "5", *ours, *peers]
    (figures,) = json.loads((tmp_path / "figures.json").read_text())
    assert bench_match.Timing(**figures) == TIMING


def test_everything_runs_on_small_graphs(capsys, tmp_path):
    threads = torch.get_num_threads()
    everything.main(["--tiny", "--figures", str(tmp_path)])
    torch.set_num_threads(threads)
    head, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.split(" | ")[1:4] == ["workload", "nodes", "rules"]
    stages = [row.split(" | ")[0] for row in rows]
    assert stages == ["| match"] * 9 + ["| rewrite"] * 5
    assert all(row.count("×") == 2 for row in rows)
    ratios = (tmp_path / "ratios.svg").read_text()
    assert ratios.count('class="bar"') == 2 * 9
    assert "<polyline" in (tmp_path / "growth.svg").read_text()


def test_lines_of_linear_growth_are_straight():
    small, large = TIMING, attrs.evolve(TIMING, nodes=100_000, ours=2e-2)
    middle = attrs.evolve(TIMING, nodes=10_000, ours=2e-3)
    figure = everything.growth([small, middle, large])
    points = figure.partition('points="')[2].partition('"')[0].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert "100,000 nodes" in figure


def test_labels_are_escaped():
    assert "a &lt; b" in plots.bars("t", [("a < b", {"s": 2.0})])
