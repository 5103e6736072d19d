"""The commands of `rewrite-engine`, one file each: `register` adds it to the parser.

No file here imports torch when it is imported, so that what can do without torch
answers at once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
