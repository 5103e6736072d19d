"""`TORCH_LOGS="+rewrite_engine"` shows what a run does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = """
import torch
from torch import fx
from rewrite_engine import engine, loads

def body(x):
    y = torch.relu(torch.relu(x))
    return y, torch.tanh(z := torch.tanh(x)), z

rules = loads('''
rule relus { z = relu(relu(x)) => z' = relu(x) }
rule tanhs { z = tanh(tanh(x)) => z' = tanh(x) }
''')
engine.apply(fx.symbolic_trace(body), rules)
"""


def logged(setting: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_LOGS": setting}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, env=environment, text=True, capture_output=True, check=True
    )
    return done.stderr


def test_a_run_is_logged_where_it_is_asked_for() -> None:
    text = logged("+rewrite_engine")
    assert "relus rewrites relu_1" in text
    assert "refused at tanh_1: 'tanh' is also read by 'output'" in text
    assert "1 rewrites in" in text
