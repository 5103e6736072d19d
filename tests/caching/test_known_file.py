"""Rules of a file that was loaded before do what they did then."""

from __future__ import annotations

import copy
import pickle
import random
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from rewrite_engine import RuleSet, engine, load, torch_ops
from rewrite_engine.dsl.checked import RuleFile
from rewrite_engine.rule_files import shipped_files
from rewrite_engine.rule_tests import example_of, run_tests
from tests.caching.same import FILLERS, RELU, assert_same, graph_of, known, rows

LIBRARIES = [path.name for path in shipped_files() if path.stem != "prelude"]


def read_of(rules: RuleSet) -> list[set[str]]:
    """The rules that were read, of each part that was."""
    return [set(names) for names in rules._parts]


def written(folder: Path, *rules: str) -> Path:
    path = folder / "many.rules"
    path.write_text("\n".join([*rules, *FILLERS]))
    return path


def test_a_file_that_names_the_prelude_is_loaded_whole(
    tmp_path: Path, kept: Path
) -> None:
    path = written(tmp_path, 'use "prelude.rules"', RELU)
    for _ in range(2):
        rules = load(path)
        assert isinstance(rules._origin, RuleFile)
    assert rules.apply(graph_of("relu", "relu")).report.matches == 1


# --- apply ---


@pytest.mark.parametrize("library", LIBRARIES)
def test_shipped_rules(library: str, tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, f'use "{library}"')
    rules, read = load(path, cache=False), 0
    for test in rules.tests:
        again = known(path)
        assert_same(rules, again, example_of(test)[0])
        assert all(len(names) < len(rules) / 2 for names in read_of(again))
        read += len(again._parts)
    assert read == len(rules.tests) > 0


@pytest.mark.parametrize("seed", range(12))
def test_random_rules(seed: int, tmp_path: Path, kept: Path) -> None:
    rng = random.Random(seed)
    calls = ["relu", "tanh", "neg", "exp", "abs", "sqrt", "sigmoid", "log"]
    lefts = rng.sample([(a, b) for a in calls for b in calls], 10)
    rules = []
    for number, (one, other) in enumerate(lefts):
        made, benefit = rng.choice(calls), rng.choice(["", " benefit 7"])
        left, right = f"{one}({other}(x))", rng.choice([f"{made}(x)", "neg(x)", "x"])
        rules.append(f"rule r{number} once{benefit} {{ z = {left} => z' = {right} }}")
    path, matches = written(tmp_path, *rules), 0
    expected = load(path, cache=False)
    for _ in range(8):
        module = graph_of(*rng.choices(calls[: rng.randrange(2, 6)], k=6))
        matches += assert_same(expected, known(path), module)
    assert matches


def test_what_others_make_is_looked_for(tmp_path: Path, kept: Path) -> None:
    path = written(
        tmp_path,
        "rule first { z = relu(x) => z' = sigmoid(x) }",
        "rule second { z = sigmoid(x) => z' = tanh(x) }",
        "rule third { z = tanh(tanh(x)) => z' = tanh(x) }",
        "rule never { z = cos(x) => z' = sin(x) }",
    )
    rules = known(path)
    assert assert_same(load(path, cache=False), rules, graph_of("relu", "relu")) == 5
    (names,) = read_of(rules)
    assert {"first", "second", "third"} <= names and "never" not in names


def test_a_rule_may_match_nowhere(tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, RELU)
    rules = known(path)
    assert assert_same(load(path, cache=False), rules, graph_of("cos")) == 0
    assert read_of(rules) == [set()]


def test_modules_are_called_and_their_classes_derived(
    tmp_path: Path, kept: Path
) -> None:
    class Mine(nn.ReLU):
        pass

    path = written(
        tmp_path,
        "op any_relu = nn.ReLU+",
        "rule modules { z = any_relu(any_relu(x)) => z' = cos(x) }",
    )
    for kind in (nn.ReLU, Mine):
        module = fx.Graph()
        x = module.placeholder("x")
        y = module.call_module("a", (module.call_module("b", (x,)),))
        module.output(y)
        gm = fx.GraphModule({"a": kind(), "b": kind()}, module)
        rules = known(path)
        # What else a class of somebody's may do is not known: that is refused.
        matches = assert_same(load(path, cache=False), rules, gm)
        assert matches == (kind is nn.ReLU)
        assert read_of(rules) == [{"modules"}]


def test_methods_are_called(tmp_path: Path, kept: Path) -> None:
    path, module = written(tmp_path, RELU), fx.symbolic_trace(lambda x: x.relu().relu())
    rules = known(path)
    assert assert_same(load(path, cache=False), rules, module) == 1
    assert read_of(rules) == [{"relus"}]


def test_subgraphs_and_programs(tmp_path: Path, kept: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x.relu().relu(), torch.neg, (x,))

    path = written(tmp_path, RELU)
    program = torch.export.export(Branches(), (torch.randn(3),))
    assert known(path).apply(program, recurse=True).report.matches == 1
    assert known(path).apply(copy.deepcopy(program)).report.matches == 0


def test_phases(tmp_path: Path, kept: Path) -> None:
    path = written(
        tmp_path,
        "rule first { z = relu(x) => z' = cos(x) }",
        "rule second { z = cos(x) => z' = sin(x) }",
        "rule unused { z = sin(x) => z' = log(x) }",
        "pipeline p { fixpoint { filler3, second } once { first, second } }",
    )
    rules = known(path)
    assert assert_same(load(path, cache=False), rules, graph_of("relu", "cos")) == 2
    assert [row[0] for row in rows(rules.apply(graph_of("exp")).report)] == [
        *("filler3", "second", "first")
    ]


def test_other_models_need_other_rules(tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, RELU, "rule cosines { z = cos(cos(x)) => z' = x }")
    rules = known(path)
    for names, read in [
        (("relu", "relu", "cos"), {"relus", "cosines"}),
        (("relu", "relu"), {"relus", "cosines"}),
        (("exp", "tanh"), {"relus", "cosines"}),  # from here on, all
    ]:
        module = graph_of(*names)
        assert_same(load(path, cache=False), rules, module)
        assert read_of(rules) == [read]
    assert "whole" in vars(rules._origin)


def test_most_rules_are_read_like_all(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "few.rules"
    path.write_text(RELU)
    rules = known(path)
    assert_same(load(path, cache=False), rules, graph_of("relu", "relu"))
    assert read_of(rules) == []


def test_no_model(tmp_path: Path, kept: Path) -> None:
    with pytest.raises(TypeError, match="expected a torch"):
        known(written(tmp_path, RELU)).apply(nn.ReLU())  # type: ignore[arg-type]


def test_a_library_that_is_imported_later_is_known(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, missing = known(written(tmp_path, RELU)), torch_ops.missing_libraries()
    monkeypatch.setattr(torch_ops, "missing_libraries", lambda: missing ^ {"torchao"})
    assert rules.apply(graph_of("relu", "relu")).report.matches == 1
    assert read_of(rules) == []


# --- everything else ---


def test_a_set_is_what_it_was(tmp_path: Path, kept: Path) -> None:
    path = written(
        tmp_path,
        RELU,
        'test "t" { given (x: f32[2]) { return relu(x) }',
        "expect relus * 0 }",
    )
    rules = load(path, cache=False)
    assert known(path) == rules and hash(known(path)) == hash(rules)
    assert known(path).content_hash == rules.content_hash
    assert repr(known(path)) == repr(rules)
    assert len(known(path)) == len(rules)
    assert [r.name for r in known(path)] == [r.name for r in rules]
    assert known(path)["relus"].doc == "Once is enough."
    assert known(path).file.rules == rules.file.rules
    assert known(path).tests == rules.tests
    assert [outcome.passed for outcome in run_tests(known(path))] == [True]
    with pytest.raises(KeyError, match="no rule `relu`"):
        known(path)["relu"]


def test_a_set_that_was_applied_is_what_it_was(tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, RELU)
    rules, expected = known(path), load(path, cache=False)
    rules.apply(graph_of("relu", "relu"))
    assert rules == expected and len(rules) == len(expected)
    restored: RuleSet = pickle.loads(pickle.dumps(rules))
    assert restored == expected
    assert_same(expected, restored, graph_of("relu", "relu", "exp"))
    assert_same(expected.only("relus"), rules.only("relus"), graph_of("relu", "relu"))


def test_search_and_explanation(tmp_path: Path, kept: Path) -> None:
    path, module = written(tmp_path, RELU), graph_of("relu", "relu", "exp")
    ours, expected = known(path), load(path, cache=False)
    found = [(m.rule.name, m.anchor) for m in engine.find(module, expected)]
    assert ("relus", [*module.graph.nodes][2]) in found
    assert [(m.rule.name, m.anchor) for m in engine.find(module, ours)] == found
    explained = str(engine.explain(module, expected))
    assert str(engine.explain(module, known(path))) == explained


def test_a_recorded_run(tmp_path: Path, kept: Path) -> None:
    path = written(tmp_path, RELU)
    traces = []
    for rules in (known(path), load(path, cache=False)):
        module = graph_of("relu", "relu")
        trace = engine.apply(module, rules, record=True).report.trace()
        traces.append((trace["rewrites"], [r["name"] for r in trace["rules"]]))
    assert traces[0] == traces[1]


def test_what_was_read_stands_where_the_file_has_it(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "many.rules"
    one, *others = FILLERS
    path.write_text("\n".join([f"{one} ## of no rule", RELU, *others]))
    rules, expected = known(path), load(path, cache=False)["relus"]
    rules.apply(graph_of("relu", "relu"))
    (part,) = rules._parts.values()
    read = part["relus"]
    assert read.place == f"{path}:3" == expected.place
    assert read.doc == expected.doc == "Once is enough."
    assert read.source == expected.source and read.span == expected.span
