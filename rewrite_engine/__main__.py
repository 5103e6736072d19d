"""`python -m rewrite_engine`."""

from __future__ import annotations

import sys

from rewrite_engine.cli import main

sys.exit(main())
