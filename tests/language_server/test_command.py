"""`rewrite-engine lsp` without what it needs."""

from __future__ import annotations

import subprocess
import sys


def test_what_is_missing_is_named() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('pygls', 'lsprotocol')));"
        "from rewrite_engine.cli import main; sys.exit(main(['lsp']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: the language server needs an extra: pip install 'rewrite-engine[lsp]'\n"
    )
