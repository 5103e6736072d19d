"""Threads take turns: one run at a time in a process.

fx graphs are not made for threads, and neither are fake modes, which copies of a graph
share. Runs are Python code that holds the interpreter anyway, so waiting costs nothing.
"""

from __future__ import annotations

import threading
from typing import Final

TURN: Final = threading.RLock()
"""Held while rules read or change graphs; a hook may apply rules to another graph."""
