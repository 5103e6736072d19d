"""Malformed rule files: every mutation is refused or read, quickly and harmlessly.

A program of its own, because an audit hook cannot be removed from a process:

    python -m tests.dsl.malformed SEED COUNT    # so many mutations
    python -m tests.dsl.malformed FILE          # its items, cut off at every character

prints one line of JSON: how many texts were read, how many were refused, the slowest,
the peak of memory, and everything else that happened. `test_malformed.py` runs it.
"""

from __future__ import annotations

import json
import random
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from rewrite_engine.dsl import loader
from rewrite_engine.errors import RuleError

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [*(ROOT / "rules").glob("*.rules"), *(ROOT / "tests" / "cases").rglob("*.rules")]
)
TOKENS = (
    *("rule", "op", "family", "pattern", "pipeline", "test", "use", "where", "meta"),
    *("keep", "erase", "param", "buffer", "value", "if", "else", "is const", "not"),
    *("=>", "<-", "=", "==", "..", "..y", "*xs", "?", "^+", "|", "@", "~", "'", "$k"),
    *("(", ")", "[", "]", "{", "}", ",", ":", "x", "relu(x)", "aten.add.Tensor"),
    *("1e308", "1e309", "9" * 19, "9" * 400, "-1", "0.0000001", "__class__", "_"),
    *('"', '"a\\"b"', "\\", "\0", "\ufeff", "\ud800", "\u202e", "\r", "\t", "é", "𝔁"),
    *("aten.relu.__init__", "os.system", "operator.attrgetter", "torch.load"),
    *("(" * 70, "[" * 500, "-" * 300, "relu(" * 200, "|a" * 300, "#", "##", "\n"),
)
FORBIDDEN = ("exec", "compile", "import", "open", "os.", "subprocess.", "socket.",
             "ctypes.", "pickle.", "shutil.", "marshal.")  # fmt: skip
"""Audit events that reading a rule file must not cause."""


def mutated(text: str, chosen: random.Random) -> str:
    """The text after one to four random changes."""
    for _ in range(chosen.choice((1, 1, 2, 4))):
        at = chosen.randint(0, len(text))
        to = min(len(text), at + chosen.choice((0, 1, 1, 2, 5, 40)))
        match chosen.randrange(5):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:at] + chosen.choice(TOKENS) + text[to:]
            case 2:
                text = text[:at] + chr(chosen.randrange(1, 0x250)) + text[to:]
            case 3:
                text = text[:at] + text[at:to] * chosen.randint(2, 4) + text[to:]
            case 4:
                text = text[:at]
    return text


def items_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n\n")


def mutations(seed: int, count: int) -> Iterator[str]:
    """Mostly of a short item; else of any, or of two that follow each other."""
    chosen = random.Random(seed)
    files = [items_of(path) for path in FILES]
    items = [item for file in files for item in file]
    short = [item for item in items if len(item) < 500]
    pairs = ["\n\n".join(pair) for file in files for pair in pairwise(file)]
    for _ in range(count):
        kind = chosen.choice((short, short, short, short, short, short, items, pairs))
        yield mutated(chosen.choice(kind), chosen)


def cuts(path: Path) -> Iterator[str]:
    """What is before an item that is cut off has no fault, and is left out."""
    return (item[:end] for item in items_of(path) for end in range(len(item)))


def is_harmless(event: str, args: tuple[object, ...]) -> bool:
    """Shipped files are listed for hints and read where a text uses them, and installed
    rule packs are looked up by name; defaults of the catalog are parsed.
    """
    if event == "os.listdir":
        return str(args[0]) in sys.path
    if event == "os.scandir":
        return args == (str(ROOT / "rules"),)
    if event == "open":
        path, mode, _ = args
        opened = Path(str(path))
        is_looked_up = str(path) in sys.path or opened.name == "entry_points.txt"
        return mode == "r" and (is_looked_up or opened.parent == ROOT / "rules")
    return event == "compile" and args[1] == "<unknown>"  # by `ast.literal_eval`


def peak_megabytes() -> int:
    """Most memory that this program held. `ru_maxrss` begins with what the process that
    started it held, so Linux is asked for the program's own.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert peak is not None
    return int(peak[1]) >> 10


def main(texts: Iterable[str]) -> None:
    events: list[str] = []
    surprises: list[str] = []
    slowest, refused = 0.0, 0
    inputs = list(texts)
    loader.check_text("rule r { y = relu(x) => y' = x }")  # what is read only once
    "\n".encode("unicode_escape")
    watching = False

    def hook(event: str, args: tuple[object, ...]) -> None:
        if watching and event.startswith(FORBIDDEN) and not is_harmless(event, args):
            events.append(f"{event} {args!r}"[:200])

    sys.addaudithook(hook)
    watching = True
    for text in inputs:
        start = time.process_time()
        try:
            loader.load_text(text)
        except RuleError as error:
            refused += 1
            placed = all(d.span.end <= len(text) for d in error.diagnostics)
            if not (error.diagnostics and placed and str(error)):
                surprises.append(f"no position in {text!r}")
        except BaseException as error:
            surprises.append(f"{type(error).__name__}: {error} in {text!r}")
        slowest = max(slowest, time.process_time() - start)
    watching = False
    print(
        json.dumps(
            {
                "read": len(inputs) - refused,
                "refused": refused,
                "slowest": slowest,
                "megabytes": peak_megabytes(),
                "surprises": surprises[:5],
                "events": events[:5],
            }
        )
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case [seed, count]:
            main(mutations(int(seed), int(count)))
        case [file]:
            main(cuts(Path(file)))
