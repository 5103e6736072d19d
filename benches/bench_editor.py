"""How long an editor waits for the findings of a change, in a file of 1,000 lines.

    python -m benches.bench_editor

Processor time, means, of checking and preparing what is published, beside what reading
the whole text anew takes; the server waits 30 ms more for the next key. The start is
that of a process of its own, up to the findings of `qat_fuse`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl import loader
from rewrite_engine.language_server.documents import Documents
from rewrite_engine.language_server.publishing import Board

LINES = 1000
REPEATS = 15
URI = "file:///nowhere/bench.rules"

_START = """
from rewrite_engine.assets import rules_directory
from rewrite_engine.language_server.server import create_server
server = create_server()
text = (rules_directory() / "qat_fuse.rules").read_text(encoding="utf-8")
server.documents.put("file:///nowhere/a.rules", text, 1)
server.board.put(server.documents.get("file:///nowhere/a.rules"))
"""


def long_text(lines: int = LINES) -> str:
    """`qat_fuse` again and again, under other names."""
    text = (rules_directory() / "qat_fuse.rules").read_text(encoding="utf-8")
    names = re.findall(r"^(?:rule|family|op|pattern) (\w+)", text, re.MULTILINE)
    written = re.compile(rf"\b({'|'.join(names)})\b")
    copies = lines // text.count("\n") + 1
    return "".join(written.sub(rf"\1_{number}", text) for number in range(copies))


def check(documents: Documents, board: Board, text: str) -> int:
    """What the server does after a change; the number of findings."""
    documents.put(URI, text, None)
    document = documents.get(URI)
    board.put(document)
    return len(document.examination.findings)


def main() -> None:
    """Print the times."""
    text = long_text()
    documents = Documents()
    board = Board(documents)
    check(documents, board, text)
    middle = text.index("\n", len(text) // 2)

    def measured(name: str, run: Callable[[int], object]) -> None:
        start = sum(os.times()[:4])  # of this process and of its children
        for number in range(REPEATS):
            run(number)
        spent = (sum(os.times()[:4]) - start) / REPEATS
        print(f"{name:34} {spent * 1e3:7.0f} ms")

    code = [sys.executable, "-c", _START]
    measured("start", lambda _: subprocess.run(code, check=True))
    for place, name in ((0, "start"), (middle, "middle"), (len(text), "end")):
        measured(
            f"a change at the {name} of {LINES} lines",
            lambda n, at=place: check(
                documents, board, f"{text[:at]}\n#{'.' * n}\n{text[at:]}"
            ),
        )
    measured("the whole text anew", lambda _: loader.check_text(text))


if __name__ == "__main__":
    main()
