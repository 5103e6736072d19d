"""The rule libraries and the grammar are found however the package is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = sorted(path.name for path in (ROOT / "rules").glob("*.rules"))

_FIND = """
from rewrite_engine.assets import grammar_directory, rules_directory
print(rules_directory())
print(grammar_directory())
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command; neither the checkout nor user settings leak in."""
    kept = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")
    }
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def found_directories(python: str | Path, cwd: Path, **environment: str) -> list[Path]:
    """Where an interpreter finds the libraries and the grammar, after a check."""
    output = run(python, "-c", _FIND, cwd=cwd, **environment)
    rules, grammar = map(Path, output.splitlines())
    assert sorted(path.name for path in rules.glob("*.rules")) == LIBRARIES
    assert (grammar / "rules.lark").is_file()
    return [rules, grammar]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w")
    run(*pip, folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as opened:
        yield opened


def test_a_library_is_shipped() -> None:
    assert "qat_fuse.rules" in LIBRARIES


def test_wheel_contains_libraries_and_grammar(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    expected = {f"rewrite_engine/_rules/{name}" for name in LIBRARIES}
    assert names >= expected | {"rewrite_engine/_grammar/rules.lark"}


def test_wheel_contains_the_package_and_nothing_beside_it(
    wheel: zipfile.ZipFile,
) -> None:
    folders = {name.split("/")[0] for name in wheel.namelist()}
    metadata = {folder for folder in folders if folder.endswith(".dist-info")}
    assert folders == {"rewrite_engine", *metadata}


def test_wheel_declares_its_entry_points(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    (declared,) = (name for name in names if name.endswith("/entry_points.txt"))
    text = wheel.read(declared).decode()
    assert "rewrite-engine = rewrite_engine.cli:main" in text
    assert "rewrite_engine = rewrite_engine.pytest_plugin" in text
    assert "rewrite_rules = rewrite_engine.pygments_lexer:RulesLexer" in text


def test_wheel_contains_what_editors_need(wheel: zipfile.ZipFile) -> None:
    folder = "rewrite_engine/_grammar"
    extension = ("package.json", "extension.js", "language-configuration.json")
    expected = {f"{folder}/rules.tmLanguage.json", f"{folder}/errors.md"}
    expected |= {f"{folder}/vscode/{name}" for name in extension}
    assert set(wheel.namelist()) >= expected


def test_installed_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    found = found_directories(sys.executable, tmp_path, PYTHONPATH=str(tmp_path))
    package = tmp_path.resolve() / "rewrite_engine"
    assert found == [package / "_rules", package / "_grammar"]


def test_editable_install(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q")
    run(*pip, "--no-deps", "--editable", ROOT, cwd=tmp_path)
    # The dependencies come from the environment of these tests; added only now, so that
    # pip does not see an installation of this package there.
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "zz_tests.pth").write_text(sysconfig.get_path("purelib"))
    assert found_directories(python, tmp_path) == [ROOT / "rules", ROOT / "grammar"]


def test_plain_checkout(tmp_path: Path) -> None:
    found = found_directories(sys.executable, tmp_path, PYTHONPATH=str(ROOT))
    assert found == [ROOT / "rules", ROOT / "grammar"]
