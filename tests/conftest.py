"""Configuration of the whole suite."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # In a plain checkout the package is not installed, and no entry point names it.
    if not config.pluginmanager.has_plugin("rewrite_engine"):
        from rewrite_engine import pytest_plugin

        config.pluginmanager.register(pytest_plugin, "rewrite_engine")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are faster on one thread, and sums keep their order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed(_one_thread: None) -> None:
    import torch

    torch.manual_seed(0)
