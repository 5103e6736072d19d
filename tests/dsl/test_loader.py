"""Files, what they use, and how findings are gathered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rewrite_engine.dsl import loader
from rewrite_engine.dsl.catalog import Catalog
from rewrite_engine.errors import RuleError
from rewrite_engine.signatures import Parameter, Signature
from rewrite_engine.source import Source

RELU = "rule relu_away { y = relu(x) => y' = x }\n"
NEG = "rule neg_away { y = neg(x) => y' = x }\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def codes_of(path: Path) -> list[str]:
    return [found.code for found in loader.check_file(path)]


def names_of(path: Path) -> list[str]:
    return [rule.name for rule in loader.load_file(path).rules]


def test_a_used_file_brings_its_rules_and_tests(tmp_path: Path) -> None:
    test = 'test "relu" { given (x: f32[2]) { return relu(x) } expect relu_away * 1 }\n'
    write(tmp_path, "parts/first.rules", RELU + test)
    path = write(tmp_path, "all.rules", 'use "parts/first.rules"\n' + NEG)
    loaded = loader.load_file(path)
    assert [rule.name for rule in loaded.rules] == ["relu_away", "neg_away"]
    assert [test.title for test in loaded.tests] == ["relu"]
    assert loaded.rules[0].source.name.endswith("first.rules")


def test_names_choose_rules_and_the_tests_about_them(tmp_path: Path) -> None:
    tests = "".join(
        f'test "{name}" {{ given (x: f32[2]) {{ return x }} expect {name} * 0 }}\n'
        for name in ("relu_away", "neg_away")
    )
    write(tmp_path, "both.rules", RELU + NEG + tests)
    path = write(tmp_path, "one.rules", 'use "both.rules" (neg_away)\n')
    loaded = loader.load_file(path)
    assert [rule.name for rule in loaded.rules] == ["neg_away"]
    assert [test.title for test in loaded.tests] == ["neg_away"]


def test_a_used_definition_resolves_its_names_where_it_stands(tmp_path: Path) -> None:
    write(
        tmp_path,
        "used.rules",
        "op own = aten.neg\npattern wrapped(v) = own(v)\n",
    )
    path = write(
        tmp_path,
        "user.rules",
        'use "used.rules" (wrapped)\n'
        "op own = aten.abs\n"
        "rule r { y = relu(wrapped(x)) => y' = own(x) }\n",
    )
    assert codes_of(path) == []


def test_a_file_used_twice_is_one_file(tmp_path: Path) -> None:
    write(tmp_path, "base.rules", RELU)
    write(tmp_path, "left.rules", 'use "base.rules"\n')
    write(tmp_path, "right.rules", 'use "base.rules"\n')
    path = write(tmp_path, "top.rules", 'use "left.rules"\nuse "right.rules"\n')
    assert names_of(path) == ["relu_away"]


def test_two_used_definitions_of_one_name_clash(tmp_path: Path) -> None:
    write(tmp_path, "a.rules", "op own = aten.neg\n")
    write(tmp_path, "b.rules", "op own = aten.abs\n")
    path = write(tmp_path, "top.rules", 'use "a.rules"\nuse "b.rules"\n')
    (found,) = loader.check_file(path)
    assert found.code == "E204"
    assert found.notes[0].source is not None
    assert found.notes[0].source.name.endswith("a.rules")


def test_a_file_may_define_what_the_prelude_defines() -> None:
    text = "op relu = aten.relu6\nrule r { y = relu(x) => y' = x }\n"
    (rule,) = loader.load_text(text).rules
    operator = rule.bindings[0].term.operator  # type: ignore[union-attr]
    assert operator.spellings[0].path == "aten.relu6.default"


def test_a_cycle_through_another_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, "other.rules", 'use "top.rules"\n')
    path = write(tmp_path, "top.rules", 'use "other.rules"\n')
    assert codes_of(path) == ["E211"]


def test_a_text_uses_shipped_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "near.rules", RELU)
    monkeypatch.chdir(tmp_path)
    assert [f.code for f in loader.check_text('use "near.rules"')] == ["E210"]
    assert loader.check_text('use "prelude.rules" (relu)') == ()


def test_a_link_must_not_leave_its_folder(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret.rules", RELU)
    folder = tmp_path / "pack"
    path = write(folder, "top.rules", 'use "link.rules"\nuse "dir/secret.rules"\n')
    (folder / "link.rules").symlink_to(secret)
    (folder / "dir").symlink_to(tmp_path)
    found = loader.check_file(path)
    assert [each.code for each in found] == ["E210", "E210"]
    assert all("link" in each.message for each in found)


@pytest.mark.parametrize(
    "path",
    ["/a.rules", "../a.rules", "a/../b.rules", "a\\b.rules", "C:a.rules", "a.txt", ""],
)
def test_a_path_that_could_lead_away_is_refused(path: str) -> None:
    escaped = path.replace("\\", "\\\\")
    (found,) = loader.check_text(f'use "{escaped}"')
    assert (found.code, found.message.endswith("`.rules`")) == ("E210", True)


def test_all_findings_of_all_files_come_at_once_in_order(tmp_path: Path) -> None:
    write(tmp_path, "used.rules", "rule broken { y = rellu(x) => y' = x }\n")
    path = write(
        tmp_path,
        "top.rules",
        "rule late { y = relu(x) => y' = z }\n"
        "rule wrong { y = relu(x, 1) => z = neg(x) }\n"
        'use "used.rules"\n',
    )
    with pytest.raises(RuleError) as caught:
        loader.load_file(path)
    found = [(d.code, Path(d.source.name).name) for d in caught.value.diagnostics]
    assert found == [
        ("E202", "top.rules"),
        ("E301", "top.rules"),
        ("E201", "used.rules"),
    ]


def test_a_syntax_error_in_a_used_file_is_one_finding(tmp_path: Path) -> None:
    write(tmp_path, "used.rules", "rule {")
    path = write(tmp_path, "top.rules", 'use "used.rules"\n' + RELU)
    assert len(codes_of(path)) == 1


def test_warnings_are_checked_and_do_not_keep_a_file_from_loading() -> None:
    text = "rule r { y = relu(x) => z = neg(x)  y' = x }"
    assert [found.code for found in loader.check_text(text)] == ["W201"]
    assert len(loader.load_text(text).rules) == 1


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.rules"
    path.write_bytes(b"rule r { \xff }")
    (found,) = loader.check_file(path)
    assert (found.code, found.span.start) == ("E108", 9)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "large.rules", "#" * (1 << 20) + "\n")
    assert codes_of(path) == ["E104"]
    user = write(tmp_path, "user.rules", 'use "large.rules"\n')
    assert codes_of(user) == ["E104"]


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        loader.load_file(tmp_path / "none.rules")


def test_faults_of_syntax_hide_what_may_follow_from_them(tmp_path: Path) -> None:
    broken = "op own = = aten.neg\nrule r { y = own(x) => y' = unknown(x) }\n"
    path = write(tmp_path, "broken.rules", broken)
    assert codes_of(path) == ["E102"]
    user = write(tmp_path, "user.rules", f'use "broken.rules"\n{RELU}')
    assert codes_of(user) == ["E102"]


def test_a_broken_file_is_examined_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, "on_disk.rules", "op of_file = aten.neg\n")
    texts = {os.path.realpath(path): f"op of_editor = aten.neg\nop x = = y\n{RELU}"}
    source = Source("user.rules", 'use "on_disk.rules"\nrule broken {\n')
    found = loader.examine(source, tmp_path / "user.rules", texts=texts)
    assert {each.code for each in found.findings} == {"E102", "E103"}
    assert found.unit.scope.definitions.keys() == {"of_editor"}
    assert found.unit.scope.rules.keys() == {"relu_away"}
    ((_, used),) = found.unit.uses
    assert used == path


def test_too_many_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAX_RULES", 1)
    (found,) = loader.check_text(RELU + NEG)
    assert found.code == "E508"
    assert found.source.text[found.span.start : found.span.end] == "neg_away"


def test_an_expression_that_is_too_deep_for_visitors_is_refused() -> None:
    signs = " + ".join(["x"] * 130)
    (found,) = loader.check_text(f"rule r {{ y = relu(x) => y' = {signs} }}")
    assert found.code == "E105"


def test_operators_can_be_granted() -> None:
    own = Signature("mine.scale", "function", (Parameter("input"), Parameter("by")))
    catalog = Catalog({"mine.scale": [own]})
    text = "rule r { y = mine.scale(x, $k) => y' = mul(x, $k) }"
    assert len(loader.load_text(text, catalog=catalog).rules) == 1
    assert [found.code for found in loader.check_text(text)] == ["E201"]


@pytest.mark.parametrize(
    "path", sorted(Path(loader.rules_directory()).glob("*.rules")), ids=lambda p: p.stem
)
def test_shipped_files_have_no_errors(path: Path) -> None:
    assert [found for found in loader.check_file(path) if found.is_error] == []
