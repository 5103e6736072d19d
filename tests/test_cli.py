"""The command line: what each command prints, what it leaves behind, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rewrite_engine import RewriteError, demo, engine
from rewrite_engine.dsl.codes import codes
from rewrite_engine.model_files import load_program

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "demo",
    "apply",
    "explain",
    "extract",
    "bisect",
    "coverage",
    "diff",
    "check",
    "fmt",
    "show",
    "list",
    "test",
    "verify",
    "explain-code",
    "lsp",
)

RELU_TWICE = """\
## relu of relu is relu.
rule relu_twice { z = relu(relu(x)) => z' = relu(x) }

test "one is enough" {
  given (x: f32[2, 8]) { return relu(relu(x)) }
  expect relu_twice * 1, equal
}
"""
CANONICAL = "rule relu_twice {\n  z = relu(relu(x))\n=>\n  z' = relu(x)\n}\n"
WRONG = "rule wrong { y = rellu(x) => y' = x }\n"
UNPARSABLE = "rule wrong { y = relu(x => }\n"


@pytest.fixture
def rules(here) -> Path:
    (here / "relu.rules").write_text(RELU_TWICE)
    return here / "relu.rules"


def fresh(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own."""
    command = [sys.executable, "-m", "rewrite_engine", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, text=True, capture_output=True, check=False, **options
    )


# --- apply ---


def test_apply_writes_what_the_engine_would_make(model, run):
    status, out, err = run("apply", model, "qat_fuse", "-o", "out.pt2")
    assert (status, err) == (0, "")
    assert "1 rewrite in" in out
    assert "written to out.pt2" in out
    assert "refused fuse_conv_bn at batch_norm_1: the BatchNorm is in eval mode" in out
    x = torch.randn(2, 3, 8, 8)
    extra: dict[str, str] = {}
    before = load_program(model)
    after = load_program("out.pt2", extra_files=extra)
    targets = {str(node.target) for node in after.graph.nodes}
    assert "aten.where.ScalarOther" in targets
    torch.testing.assert_close(after.module()(x), before.module()(x))
    assert extra == {"note.txt": "a note"}


def test_apply_takes_several_rule_sets_in_turn(model, rules, run):
    status, out, _ = run("apply", model, rules, "qat_fuse", "-o", "out.pt2")
    assert status == 0
    assert out.index("relu_twice") < out.index("fuse_conv_bn")
    assert "2 rewrites in" in out


def test_apply_dry_run_writes_nothing(model, program_bytes, run):
    status, out, _ = run("apply", model, "qat_fuse", "--dry-run")
    assert status == 0
    assert "1 rewrite in" in out
    assert "nothing written" in out
    assert list(model.parent.iterdir()) == [model]
    assert model.read_bytes() == program_bytes


def test_apply_in_place_overwrites_the_input(model, program_bytes, run):
    assert run("apply", model, "qat_fuse", "--in-place")[0] == 0
    assert list(model.parent.iterdir()) == [model]
    assert model.read_bytes() != program_bytes
    assert "0 rewrites" in run("apply", model, "qat_fuse", "--dry-run")[1]


@pytest.mark.parametrize("spelling", ["model.pt2", "../here/model.pt2", "link.pt2"])
def test_apply_does_not_overwrite_its_input_unasked(
    model, program_bytes, run, spelling
):
    (model.parent / "link.pt2").symlink_to("model.pt2")
    status, _, err = run("apply", "model.pt2", "qat_fuse", "-o", spelling)
    assert status == 2
    assert err == f"error: {spelling} is the input; `--in-place` overwrites it\n"
    assert model.read_bytes() == program_bytes


@pytest.mark.parametrize("option", ["--report", "--trace"])
@pytest.mark.parametrize(
    "taken", ["model.pt2", "../here/link.pt2", "own.rules", "out.pt2", "page"]
)
def test_apply_writes_no_page_over_another_file(model, run, option, taken):
    here = model.parent
    (here / "link.pt2").symlink_to("model.pt2")
    (here / "own.rules").write_text("rule r { z = relu(relu(x)) => z' = relu(x) }")
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    other = "--trace" if option == "--report" else "--report"
    pages = [option, taken, other, "page"]
    status, out, err = run("apply", model, "own.rules", "-o", "out.pt2", *pages)
    assert (status, out) == (2, "")
    said = "is also the model, a rule file or another output"
    assert err == f"error: {taken} {said}\n"
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


USAGE = {
    "unknown library": (["qat_fus", "--dry-run"], "did you mean `qat_fuse`?"),
    "unlike any library": (["xyz", "--dry-run"], "there is: bn_fold, "),
    "missing rules": (["none.rules", "--dry-run"], "none.rules: no such file"),
    "a folder for rules": ([".", "--dry-run"], "a rule file is expected"),
    "another suffix": (["qat_fuse", "-o", "out.pt"], "ends in .pt2"),
    "missing folder": (["qat_fuse", "-o", "no/out.pt2"], "no: no such folder"),
    "missing folder for a page": (
        ["qat_fuse", "-o", "out.pt2", "--report", "no/page.html"],
        "no: no such folder",
    ),
    "no destination": (["qat_fuse"], "one of the arguments -o/--output --in-place"),
    "two destinations": (["qat_fuse", "-o", "a.pt2", "--dry-run"], "not allowed with"),
}


@pytest.mark.parametrize("case", USAGE)
def test_apply_used_wrongly_ends_with_2(model, run, case):
    arguments, expected = USAGE[case]
    status, out, err = run("apply", model, *arguments)
    assert (status, out) == (2, "")
    assert expected in err
    assert list(model.parent.iterdir()) == [model]


def test_apply_with_wrong_rules_shows_the_line_and_a_caret(model, run):
    Path("wrong.rules").write_text(WRONG)
    status, _, err = run("apply", model, "wrong.rules", "-o", "out.pt2")
    assert status == 2
    assert "wrong.rules:1:18: error[E201]: there is no operator `rellu`" in err
    assert f"1 | {WRONG}  | {'^^^^^':>22}\n" in err
    assert not Path("out.pt2").exists()


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "checkpoint"])
def test_apply_refuses_bad_models_in_one_line(here, program_bytes, run, kind):
    path = here / "model.pt2"
    if kind == "checkpoint":
        torch.save({}, path)
    elif kind != "missing":
        path.write_bytes(b"text" if kind == "text" else program_bytes[:-1000])
    before = {each: each.read_bytes() for each in here.iterdir()}
    status, out, err = run("apply", path, "qat_fuse", "-o", "out.pt2")
    assert (status, out) == (3, "")
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1
    assert {each: each.read_bytes() for each in here.iterdir()} == before


def test_rules_that_never_end_leave_nothing_behind(model, run, monkeypatch):
    def fail(*_, **__):
        raise RewriteError("a and b may feed each other")

    monkeypatch.setattr(engine, "apply", fail)
    status, _, err = run("apply", model, "qat_fuse", "-o", "out.pt2")
    assert (status, err) == (2, "error: a and b may feed each other\n")
    assert list(model.parent.iterdir()) == [model]


# --- how commands end ---


def test_an_internal_error_is_one_line_and_a_way_to_see_more(model, run, monkeypatch):
    def fail(*_, **__):
        raise KeyError("lost\nnode")

    monkeypatch.setattr(engine, "apply", fail)
    status, _, err = run("apply", model, "qat_fuse", "--dry-run")
    assert status == 70
    assert err.startswith("internal error: KeyError: ")
    assert "`--traceback`" in err
    assert "Traceback" not in err
    for arguments in (
        ["--traceback", "apply", model, "qat_fuse", "--dry-run"],
        ["apply", model, "qat_fuse", "--dry-run", "--traceback"],
    ):
        status, _, err = run(*arguments)
        assert status == 70
        assert "Traceback" in err
        assert "in fail" in err


def test_an_interrupt_ends_with_130(model, run, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "apply", fail)
    assert run("apply", model, "qat_fuse", "-o", "out.pt2") == (130, "", "")
    assert list(model.parent.iterdir()) == [model]


def test_a_broken_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        command = [sys.executable, "-m", "rewrite_engine", "explain-code"]
        done = subprocess.run(
            command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [[], ["aply"], ["check"], ["list", "more"]])
def test_a_wrong_command_line_ends_with_2(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "usage: rewrite-engine" in err


def test_help_names_every_command_and_exit_status(run):
    status, out, _ = run("--help")
    assert status == 0
    for command in [
        "demo",
        "apply",
        "check",
        "fmt",
        "show",
        "list",
        "test",
        "explain-code",
    ]:
        assert f"\n    {command}" in out
    assert "0 done, 1 findings, 2 usage or rule error, 3 refused input" in out


TORCH_FREE = (
    ["--help"],
    ["apply", "--help"],
    ["check", "qat_fuse"],
    ["fmt", "--check", "qat_fuse"],
    ["list"],
    ["explain-code", "E201"],
)


@pytest.mark.parametrize("arguments", TORCH_FREE, ids=" ".join)
def test_quick_commands_do_not_import_torch(arguments):
    code = (
        "import sys; from rewrite_engine.cli import main; "
        f"assert main({arguments!r}) == 0; sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_package_runs_as_a_module():
    done = fresh("explain-code", "E201")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("E201 ")


# --- check ---


def test_check_of_a_good_file(rules, run):
    assert run("check", rules, "qat_fuse") == (
        0,
        "2 files checked: no findings\n",
        "",
    )


def test_check_prints_every_finding_of_every_file(here, run):
    (here / "a.rules").write_text(WRONG + WRONG.replace("wrong", "wrong_too"))
    (here / "b.rules").write_text(UNPARSABLE)
    status, out, _ = run("check", "a.rules", "b.rules")
    assert status == 1
    assert "a.rules:1:18: error[E201]" in out
    assert "a.rules:2:22: error[E201]" in out
    assert "b.rules:1:26: error[E" in out
    assert out.endswith("2 files checked: 3 errors\n")


def test_check_reports_a_used_file_once(here, run):
    (here / "used.rules").write_text(WRONG)
    for name in ("a.rules", "b.rules"):
        (here / name).write_text('use "used.rules"\n')
    status, out, _ = run("check", "a.rules", "b.rules")
    assert status == 1
    assert out.endswith("2 files checked: 1 error\n")


def test_check_of_a_missing_file_is_a_usage_error(here, run):
    status, out, err = run("check", "none.rules")
    assert (status, out, err) == (2, "", "error: none.rules: no such file\n")


# --- fmt ---


def test_fmt_rewrites_a_file_once(here, run):
    (here / "a.rules").write_text("rule relu_twice{z=relu(relu(x))=>z'=relu(x)}")
    assert run("fmt", "a.rules") == (0, "reformatted: a.rules\n", "")
    assert (here / "a.rules").read_text() == CANONICAL
    assert run("fmt", "a.rules") == (0, "1 file left unchanged\n", "")
    assert list(here.iterdir()) == [here / "a.rules"]


def test_fmt_check_writes_nothing(here, run):
    (here / "a.rules").write_text(text := CANONICAL.replace("\n", " "))
    (here / "b.rules").write_text(CANONICAL)
    status, out, _ = run("fmt", "--check", "a.rules", "b.rules")
    assert status == 1
    assert out == "would be reformatted: a.rules\n1 file would be left unchanged\n"
    assert (here / "a.rules").read_text() == text


def test_fmt_stdout_prints_the_text_and_nothing_else(here, run):
    (here / "a.rules").write_text(text := CANONICAL.replace("\n", " "))
    assert run("fmt", "--stdout", "a.rules") == (0, CANONICAL, "")
    assert (here / "a.rules").read_text() == text


def test_fmt_changes_no_file_if_one_does_not_parse(here, run):
    (here / "a.rules").write_text(text := CANONICAL.replace("\n", " "))
    (here / "b.rules").write_text(UNPARSABLE)
    status, _, err = run("fmt", "a.rules", "b.rules")
    assert status == 2
    assert "b.rules:1:26: error[E" in err
    assert (here / "a.rules").read_text() == text


def test_fmt_of_another_encoding_is_a_usage_error(here, run):
    (here / "a.rules").write_bytes(b"# caf\xe9\n")
    status, _, err = run("fmt", "a.rules")
    assert (status, err) == (2, "error: a.rules: the text is not UTF-8\n")


# --- show, list, test, explain-code ---


def test_show_prints_source_graphs_and_instances(rules, run, snapshot):
    status, out, _ = run("show", "relu_twice", "relu.rules")
    assert status == 0
    assert out == snapshot


def test_show_finds_shipped_rules(run):
    status, out, _ = run("show", "fuse_conv_bn")
    assert status == 0
    instances = engine.load("qat_fuse")["fuse_conv_bn"].instances()
    assert f"{len(instances)} instances" in out
    assert "y = aten.conv2d(x, w, b)  z = aten.batch_norm(y, gamma, -, mean" in out


def test_show_prints_one_instance(rules, run):
    status, out, _ = run("show", "relu_twice", "relu.rules", "--instance", 0)
    assert status == 0
    assert out.count("aten.relu.default(") == 3
    status, _, err = run("show", "relu_twice", "relu.rules", "--instance", 1000)
    assert status == 2
    assert "has the instances 0 to " in err


def test_show_of_an_unknown_rule_lists_those_there_are(rules, run):
    status, _, err = run("show", "relu_once", "relu.rules")
    assert status == 2
    assert err == "error: no rule `relu_once` in relu.rules; there is relu_twice\n"


def test_list_names_every_shipped_rule(run):
    status, out, _ = run("list")
    assert status == 0
    for rule in engine.load("qat_fuse").file.rules:
        assert rule.name in out
    assert max(map(len, out.splitlines())) <= 100


def test_test_runs_the_blocks_of_a_file(rules, run):
    status, out, _ = run("test", rules)
    assert status == 0
    assert "  passed  one is enough\n" in out
    assert out.endswith("1 test passed, 0 failed\n")


def test_test_says_what_failed(rules, run):
    rules.write_text(RELU_TWICE.replace("* 1", "* 2"))
    status, out, _ = run("test", rules)
    assert status == 1
    assert "  FAILED  one is enough\n" in out
    assert ": expected relu_twice * 2, found 1" in out
    assert out.endswith("0 tests passed, 1 failed\n")


def test_test_runs_the_blocks_of_the_file_alone_and_all_of_them(here, run):
    (here / "a.rules").write_text(
        """
        use "cleanup.rules" (drop_alias)
        rule grows { z = tanh(x) => z' = tanh(tanh(x)) }
        test "no end" { given (x: f32[2]) { return tanh(x) } expect grows * 1 }
        test "huge" { given (x: f32[9000000, 9000000]) { return x } expect grows * 0 }
        test "fits" { given (x: f32[2]) { return neg(x) } expect grows * 0 }
        """
    )
    status, out, _ = run("test", "a.rules")
    assert status == 1
    assert "1 test passed, 2 failed" in out
    assert "FAILED  no end" in out and "the graph grew from" in out
    assert "FAILED  huge" in out and "passed  fits" in out


def test_test_of_a_file_without_tests_says_so(here, run):
    (here / "a.rules").write_text(CANONICAL)
    assert run("test", "a.rules") == (
        0,
        "a.rules: no tests\n\n0 tests passed, 0 failed\n",
        "",
    )


def test_explain_code_takes_any_case(run):
    assert run("explain-code", "e201") == run("explain-code", "E201")


def test_explain_code_lists_all(run):
    status, out, _ = run("explain-code")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(codes())


def test_explain_code_of_an_unknown_code(run):
    status, _, err = run("explain-code", "E2O1")
    assert status == 2
    assert err == "error: there is no code E2O1; `explain-code` alone lists all\n"


# --- demo ---


@pytest.fixture(scope="module")
def shown() -> demo.Demo:
    return demo.run_demo()


def test_demo_fuses_all_but_two_with_reasons(shown):
    fuse, grouped = shown.report.rules
    assert (fuse.name, fuse.candidates, fuse.matches) == ("fuse_conv_bn", 10, 8)
    assert [refusal.reason for refusal in fuse.refusals] == [
        "'conv2d_8' is also read by 'add_2'",
        "the BatchNorm is in eval mode",
    ]
    assert grouped.matches == 0
    assert shown.nodes_after > shown.nodes_before


def test_demo_shows_no_difference_in_training(shown):
    differences = shown.differences
    assert 0 <= differences.outputs < 1e-4
    assert 0 <= differences.gradients < 1e-4
    assert 0 <= differences.statistics < 1e-4


def test_demo_shows_one_match_in_full(shown):
    before = [line.partition(" = ")[2] for line in shown.before]
    assert [call.partition("(")[0] for call in before] == [
        "aten.conv2d.default",
        "aten.batch_norm.default",
    ]
    assert all("0.001" in line for line in (before[-1], shown.after[-1]))
    assert "aten.batch_norm.default" in shown.after[-1]
    assert sum("aten.conv2d.default" in line for line in shown.after) == 1


def test_demo_model_has_a_gamma_of_zero():
    model = demo.build_model()
    gammas = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert any(not gamma.any() for gamma in gammas)
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_demo_prints_its_figures_and_nothing_else(run):
    status, out, err = run("demo")
    assert (status, err) == (0, "")
    assert "8 rewrites in" in out
    for row in ("outputs", "gradients", "running statistics"):
        assert f"\n{row} " in out
    assert max(map(len, out.splitlines())) <= 100


def test_verify_runs_every_instance(here, run):
    (here / "r.rules").write_text(RELU_TWICE)
    status, out, _ = run("verify", "r.rules", "--trials", "3")
    assert status == 0 and "1/1" in out


def test_verify_prints_a_program_that_shows_a_difference(here, run):
    (here / "r.rules").write_text("rule r { z = sub(x, y) => z' = sub(y, x) }")
    status, out, _ = run("verify", "r.rules", "--trials", "0")
    assert status == 1
    assert "error[E601]" in out and "assert_equivalent(before, after, inputs" in out


def test_verify_in_a_pipe_cuts_nothing_and_names_the_rule_that_is_wrong(here, run):
    wrong = "a_name_that_is_longer_than_what_a_table_of_a_terminal_has_room_for"
    rule = f"rule {wrong} {{ z = sub(x, y) where y: f32 => z' = sub(y, x) }}"
    (here / "r.rules").write_text(f"{RELU_TWICE}\n{rule}")
    _, out, _ = run("verify", "r.rules", "--trials", "0")
    heading, _, *rows = out.splitlines()[1:5]
    assert heading.split()[-4:] == ["guards", "both", "ways", "result"]
    assert [row.split()[0] for row in rows] == ["relu_twice", wrong]
    assert f"load('r.rules').only('{wrong}', once=True)" in out


def test_verify_takes_no_negative_number_of_trials(here, run):
    (here / "r.rules").write_text(RELU_TWICE)
    status, _, err = run("verify", "r.rules", "--trials", "-1")
    assert status == 2 and "--trials" in err
