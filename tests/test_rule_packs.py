"""Rule packs: distributions that ship rule files under a name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rewrite_engine import RuleError, load, loads
from rewrite_engine.cli import main
from rewrite_engine.dsl import loader
from rewrite_engine.rule_packs import pack_names, rule_pack

FLIP = "## Two negations cancel.\nrule flip { z = neg(neg(x)) => z' = x }\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, one of which has a pack called `acme`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "acme-rules", {"acme": "acme_rules.data"})
    write(tmp_path / "acme_rules/__init__.py", "raise RuntimeError('imported')")
    write(tmp_path / "acme_rules/data/flips.rules", FLIP)
    write(tmp_path / "acme_rules/data/more/both.rules", 'use "acme/flips.rules"\n')
    return tmp_path


def install(site: Path, name: str, packs: dict[str, str]) -> None:
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    points = "\n".join(f"{pack} = {value}" for pack, value in packs.items())
    write(info / "entry_points.txt", f"[rewrite_engine.rule_packs]\n{points}\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_files_of_a_pack_are_loaded_by_name(site: Path) -> None:
    assert [rule.name for rule in load("acme/flips")] == ["flip"]
    assert [rule.name for rule in load("acme/more/both")] == ["flip"]
    assert "acme_rules" not in sys.modules, "a pack is data"


def test_a_rule_file_uses_a_file_of_a_pack(site: Path) -> None:
    assert [rule.name for rule in loads('use "acme/flips.rules" (flip)')] == ["flip"]


def test_a_file_beside_the_user_comes_first(site: Path, tmp_path: Path) -> None:
    write(tmp_path / "own/acme/flips.rules", "rule mine { z = abs(abs(x)) => z' = x }")
    write(tmp_path / "own/top.rules", 'use "acme/flips.rules"')
    assert [rule.name for rule in load(tmp_path / "own/top.rules")] == ["mine"]


def test_packs_are_listed_with_the_shipped_libraries(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "acme/flips" in shown
    assert "Two negations cancel." in shown


def test_commands_take_files_of_packs(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "acme/flips"]) == 0
    assert main(["check", "acme/flip"]) == 2
    assert "did you mean `acme/flips`?" in capsys.readouterr().err


WRONG = {
    "no such pack": (
        "acne/flips",
        "no rule pack is called `acne` .did you mean `acme`",
    ),
    "no such file": ("acme/flops", "acme-rules 1.2. has no `flops` .did you mean"),
    "no package": ("gone/x", "`gone` .broken 1.2. names `nowhere.at_all`, which is no"),
    "no rules": ("empty/x", "`empty` .broken 1.2. holds no `.rules` files"),
    "two of a name": ("twice/x", "broken 1.2 and other 1.2 both have a rule pack"),
}


@pytest.mark.parametrize(("name", "message"), WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_with_a_pack_is_said(site: Path, name: str, message: str) -> None:
    broken = {"gone": "nowhere.at_all", "empty": "empty_rules", "twice": "empty_rules"}
    install(site, "broken", broken)
    install(site, "other", {"twice": "acme_rules.data"})
    write(site / "empty_rules/__init__.py", "")
    with pytest.raises(FileNotFoundError, match=message):
        load(name)
    (found,) = loader.check_text(f'use "{name}.rules"')
    assert found.code == "E210"


def test_a_broken_pack_does_not_hide_the_others(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "broken", {"gone": "nowhere"})
    assert main(["list"]) == 0
    shown = capsys.readouterr()
    assert "warning: the rule pack `gone` (broken 1.2) names `nowhere`" in shown.err
    assert "acme/flips" in shown.out


def test_a_fault_in_a_pack_is_reported_where_it_is(site: Path) -> None:
    write(site / "acme_rules/data/bad.rules", "rule r { y = rellu(x) => y' = x }")
    with pytest.raises(RuleError, match=r"bad\.rules:1:14: error\[E201\]"):
        load("acme/bad")


def test_a_pack_knows_what_it_was_installed_with(site: Path) -> None:
    assert "acme" in pack_names()
    assert rule_pack("acme").distribution == "acme-rules 1.2"
    assert list(rule_pack("acme").files()) == ["flips", "more/both"]
