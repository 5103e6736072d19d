"""What a command ends with."""

from __future__ import annotations

DONE = 0
FINDINGS = 1
USAGE = 2
REFUSED = 3
INTERNAL = 70
INTERRUPTED = 130
BROKEN_PIPE = 141


class UsageError(Exception):
    """The command line asks for something that cannot be done; one line."""
