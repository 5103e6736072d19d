"""Configuration of the whole suite."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Modules that hold assertions and no tests: under `python -O`, these are run, too.
pytest.register_assert_rewrite(
    "tests.caching.same",
    "tests.dsl.malformed",
    "tests.integrations.flow",
    "tests.integrations.isomorphism",
)


def pytest_configure(config: pytest.Config) -> None:
    os.environ["REWRITE_ENGINE_CACHE"] = "off"  # the user's folder is the user's
    # In a plain checkout the package is not installed, and no entry point names it.
    if not config.pluginmanager.has_plugin("rewrite_engine"):
        from rewrite_engine import pytest_plugin

        config.pluginmanager.register(pytest_plugin, "rewrite_engine")
    # Runs that must pass are repeatable; the long ones draw other examples each time.
    settings.register_profile("repeatable", derandomize=True)
    is_long = config.getoption("markexpr") == "long"
    if not is_long and config.getoption("--hypothesis-profile") is None:
        settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are faster on one thread, and sums keep their order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed(_one_thread: None) -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _time_for_long_tests(request: pytest.FixtureRequest) -> None:
    """The timeout of pyproject.toml is not for them."""
    if request.node.get_closest_marker("long") is not None:
        faulthandler.cancel_dump_traceback_later()


# --- reliability figures ---


@pytest.fixture
def measured(record_property) -> Callable[..., None]:
    """Counts what a test did for a figure: `measured("R1", graphs=30)`."""
    return lambda figure, **amounts: record_property(figure, amounts)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = [name for mark in item.iter_markers("figure") for name in mark.args]
        item.extra_keyword_matches.update(names)
        item.user_properties.append(("figures", names))


# --- the command line ---


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def program_bytes(tmp_path_factory) -> bytes:
    import torch
    from torch import nn

    path = tmp_path_factory.mktemp("models") / "model.pt2"
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    frozen = nn.BatchNorm2d(4).eval()
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.ReLU(), nn.Conv2d(4, 4, 1), frozen)
    program = torch.export.export(model, (torch.randn(2, 3, 8, 8),))
    torch.export.save(program, path, extra_files={"note.txt": "a note"})
    return path.read_bytes()


@pytest.fixture
def model(here, program_bytes) -> Path:
    (here / "model.pt2").write_bytes(program_bytes)
    return here / "model.pt2"


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Exit status, standard output and standard error of a command line."""
    from rewrite_engine.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
