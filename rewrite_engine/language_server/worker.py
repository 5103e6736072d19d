"""What needs torch, in a process of its own: a JSON object a line, in and out.

A request holds the `text` and the `path` of a document and what is asked:

- `count`: a rule, whose instances are counted: `count`;
- `types`: a rule, or `types_in_test`: the title of a test, of whose names it is asked
  what they stand for in an example: `types`;
- `test`: the title of a test, which is run: `passed` and `message`.

After a mistake the answer is only a `message`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewrite_engine.dsl import loader
from rewrite_engine.dsl.checked import Test
from rewrite_engine.language_server.replies import own_output
from rewrite_engine.source import Source

if TYPE_CHECKING:
    from rewrite_engine.ruleset import RuleSet


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    texts = tuple(request["texts"].items())
    rules = _rules(request["text"], request["path"], texts)
    if "count" in request:
        return {"count": len(rules[request["count"]].instances())}
    if "types" in request:
        return {"types": _types(rules, request["types"])}
    if "types_in_test" in request:
        return {"types": _types_in_test(rules, request["types_in_test"])}
    return _run_test(rules, request["test"])


@lru_cache(maxsize=1)
def _rules(text: str, path: str, texts: tuple[tuple[str, str], ...]) -> RuleSet:
    """The rules of a document; several questions about one text are usual."""
    from rewrite_engine.ruleset import RuleSet

    source = Source(path or "<text>", text)
    place = Path(path) if path else None
    found = loader.right(loader.examine(source, place, texts=dict(texts)))
    rules = RuleSet(source.name, found.file)
    rules.check()
    return rules


def _types(rules: RuleSet, name: str) -> Mapping[str, str]:
    from rewrite_engine.verification.types import types_in_rule
    from rewrite_engine.verification.verify import quiet

    rule = next(rule for rule in rules.file.rules if rule.name == name)
    with quiet():
        return types_in_rule(rule, rules.tests)


def _types_in_test(rules: RuleSet, title: str) -> Mapping[str, str]:
    from rewrite_engine.verification.types import types_in_test

    test = _test(rules, title)
    return {} if test is None else types_in_test(test)


def _run_test(rules: RuleSet, title: str) -> dict[str, Any]:
    from rewrite_engine.rule_tests import run_test

    test = _test(rules, title)
    if test is None:
        return {"passed": False, "message": "there is no such test"}
    outcome = run_test(test, rules)
    return {"passed": outcome.passed, "message": outcome.message}


def _test(rules: RuleSet, title: str) -> Test | None:
    return next((test for test in rules.tests if test.title == title), None)


def main() -> None:
    """Answer requests until there are no more."""
    replies = own_output()
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # a mistake in rules must not end the process
            reply = {"message": str(error)}
        replies.write(f"{json.dumps(reply)}\n".encode())
        replies.flush()
