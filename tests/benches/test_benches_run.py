"""The benchmarks run, and their models are what they say; nothing is timed here."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torchao.quantization.pt2e import qat_utils

from benches import bench_compile, bench_fold, bench_qat, models
from rewrite_engine import engine, load, loads
from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl import loader

MODELS = {
    "conv_bn_pairs": (lambda: models.conv_bn_pairs(3), 3),
    "resnet_like": (lambda: models.resnet_like(10), 10),
    "resnet_like, 50 pairs": (models.resnet_like, 50),
    "mobilenet_like": (lambda: models.mobilenet_like(blocks=3), 11),
    "efficientnet_like": (models.efficientnet_like, 11),
    "decoder_like": (models.decoder_like, 3),
    "transformer_like": (models.transformer_like, 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_seeded_and_hold_the_stated_pairs(name):
    build, pairs = MODELS[name]
    (module, inputs), (again, same_inputs) = build(), build()
    assert module.training
    assert all(map(torch.equal, inputs, same_inputs))
    state, same_state = module.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], same_state[name]) for name in state)

    gm = models.capture(module, inputs)
    result = engine.apply(gm, load("qat_fuse"))
    assert sum(rule.matches for rule in result.report.rules) == pairs
    torch.testing.assert_close(gm(*inputs), again(*inputs), rtol=1e-3, atol=1e-3)


def test_a_seeded_model_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    models.conv_bn_pairs(1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_mobilenet_has_the_constants_and_forms_that_matter():
    module, _ = models.mobilenet_like(eps=1e-3, momentum=0.01)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    convs = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert {conv.bias is None for conv in convs} == {True, False}
    assert any(conv.groups == conv.in_channels > 1 for conv in convs)


def test_bench_qat_prints_a_row_a_model(capsys):
    threads = torch.get_num_threads()
    bench_qat.main(["--tiny"])
    torch.set_num_threads(threads)
    header, row = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:3] == ["model", "nodes", "pairs"]
    assert row.split()[0] == "conv_bn_pairs(2)"
    assert row.split()[2:4] == ["2", "2"]


def test_the_text_for_editors_has_rules_of_its_own():
    pytest.importorskip("pygls", reason="the language server needs the extra `lsp`")
    from benches import bench_editor

    text = bench_editor.long_text(400)
    assert text.count("\n") >= 400
    documents = bench_editor.Documents()
    board = bench_editor.Board(documents)
    assert bench_editor.check(documents, board, text) == len(loader.check_text(text))
    assert bench_editor.check(documents, board, f"{text}\nop a = = b\n") == 1


def test_bench_fold_shows_how_ours_grows(capsys):
    threads = torch.get_num_threads()
    bench_fold.main(["--tiny", "--growth"])
    torch.set_num_threads(threads)
    header, *rows = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:3] == ["pairs", "fuse", "ms"]
    assert [row.split()[0] for row in rows] == ["2", "4"]


def test_both_passes_are_less_than_a_fifth_of_torchaos():
    files = [rules_directory() / f"{name}.rules" for name in bench_fold.LIBRARIES]
    rules = [path.read_text().partition('\ntest "')[0] for path in files]
    assert 5 * sum(map(lines, rules)) < lines(inspect.getsource(qat_utils))


def lines(text: str) -> int:
    """How many there are, comments included."""
    return text.count("\n")


@pytest.mark.long
def test_bench_fold_prints_a_row_a_model(capsys):
    threads = torch.get_num_threads()
    bench_fold.main(["--tiny"])
    torch.set_num_threads(threads)
    _, row = capsys.readouterr().out.strip().splitlines()
    assert row.split()[0] == "conv_bn_pairs(2)"
    assert row.split()[2:4] == ["2", "2"]


def test_bench_compile_prints_a_row_a_rule_set(capsys):
    bench_compile.main(["--tiny"])
    header, *rows, second, known = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:3] == ["rules", "number", "import"]
    assert [row.split()[:2] for row in rows] == [["qat_fuse", "2"], ["2", "generated"]]
    assert second.split()[:3] == ["known", "rules", "cold"]
    assert known.split()[0] == "100"


def test_generated_rules_are_all_different():
    rules = loads(bench_compile.generated(300))
    assert len(rules) == 300  # equal ones would have been refused
    assert all(rule.doc for rule in rules)


def test_rules_of_several_files_are_all_different(tmp_path):
    rules = load(bench_compile.write_library(tmp_path, 1010), cache=False)
    assert len(rules) == 1010
    innermost = {rule.source_text.split("(x)")[0].split("(")[-1] for rule in rules}
    assert innermost == {"sin", "cos"}


def test_bench_equalize_sums_up_each_way_to_quantize(capsys):
    from benches import bench_equalize

    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        bench_equalize.main(["--tiny"])
    torch.set_num_threads(threads)
    head, ours, peer, *rest = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("static: 2 cases")
    assert (ours.split()[0], peer.split()[0]) == ("ours", "torch")
    assert len(rest) == 3


def test_the_figure_has_a_row_a_layer():
    from benches import bench_equalize

    ratios = bench_equalize.LayerRatios({"a": 20.0, "b": 30.0}, {"a": 25.0, "b": 29.0})
    figure = bench_equalize.svg(ratios)
    assert figure.count('class="gain"') == 2
    assert figure.count('class="plain"') == figure.count('class="equalized"') == 3
