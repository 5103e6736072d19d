"""What a process answers on standard output, and nothing else."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO


def own_output() -> BinaryIO:
    """Standard output for messages alone; what others print goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies
