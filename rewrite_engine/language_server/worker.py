"""What needs torch, in a process of its own: a JSON object a line, in and out.

A request holds the `text` and the `path` of a document, and either a `rule` whose
instances are counted or the title of a `test` that is run. The answer holds `count`, or
`passed` and `message`; after a mistake only `message`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rewrite_engine.dsl import loader
from rewrite_engine.errors import RuleError
from rewrite_engine.source import Source


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    from rewrite_engine.ruleset import RuleSet

    path = Path(request["path"]) if request["path"] else None
    source = Source(request["path"] or "<text>", request["text"])
    found = loader.examine(source, path, texts=request["texts"])
    errors = [each for each in found.findings if each.is_error]
    if errors:
        raise RuleError(errors)
    rules = RuleSet(source.name, found.file)
    rules.check()
    if "rule" in request:
        return {"count": len(rules[request["rule"]].instances())}
    return _run_test(rules, request["test"])


def _run_test(rules: Any, title: str) -> dict[str, Any]:
    from rewrite_engine.rule_tests import run_test

    test = next((test for test in rules.tests if test.title == title), None)
    if test is None:
        return {"passed": False, "message": "there is no such test"}
    outcome = run_test(test, rules)
    return {"passed": outcome.passed, "message": outcome.message}


def main() -> None:
    """Answer requests until there are no more."""
    replies = _own_output()
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # a mistake in rules must not end the process
            reply = {"message": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _own_output() -> TextIO:
    """Standard output for answers alone; what others print goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies
