"""Whether rules come to an end: some count gets less with every rewrite.

Counts are tried one after the other, as the letters of a word are: rules that lessen
the first one, which no rule adds to, are done with; what is left is judged by the next.
A rule that runs once at each place needs no such count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from rewrite_engine.dsl.checked import Rule
from rewrite_engine.dsl.counts import CALLS, Balance, Key, balances
from rewrite_engine.errors import Diagnostic, Note

_MOST_NOTES: Final = 3


def endless(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """A finding for each rule of a phase that may go on until a limit stops it."""
    left = _undecided([b for b in balances(rules) if not b.rule.once])
    takers: dict[str, list[Balance]] = defaultdict(list)
    for balance in left:
        for key in filter(_is_operator, balance.removed):
            takers[str(key)].append(balance)
    seen: set[str] = set()
    for balance in left:
        if balance.rule.name not in seen:
            seen.add(balance.rule.name)
            yield _finding(balance, takers)


def _undecided(left: list[Balance]) -> list[Balance]:
    """The balances that no count settles."""
    while left:
        keys = dict.fromkeys(key for balance in left for key in balance.removed)
        falling = next((key for key in keys if _falls(left, key)), None)
        if falling is None:
            break
        left = [balance for balance in left if balance.change(falling) == 0]
    return left


def _falls(left: list[Balance], key: object) -> bool:
    changes = [balance.change(key) for balance in left]
    return max(changes) <= 0 and min(changes) < 0


def _finding(balance: Balance, takers: Mapping[str, list[Balance]]) -> Diagnostic:
    rule = balance.rule
    message = f"nothing shows that `{rule.name}` comes to an end"
    notes = [Note("it is stopped, and taken back, at the limits of a run")]
    if _feeds(balance, balance):
        message = f"`{rule.name}` may match what it builds, without end"
    else:
        notes += _fed_by_turns(balance, takers)
    hint = "write `once`, or a guard that what is built does not fulfil"
    return Diagnostic("W501", message, rule.name_span, rule.source, tuple(notes), hint)


def _fed_by_turns(
    balance: Balance, takers: Mapping[str, list[Balance]]
) -> Iterator[Note]:
    """The first rules that take what this one builds, and build what it takes."""
    fed = (each for key in balance.added for each in takers.get(str(key), ()))
    others = {each.rule.name: each.rule for each in fed if _feeds(each, balance)}
    for other in islice(others.values(), _MOST_NOTES):
        text = f"`{other.name}` matches what it builds, and builds what it matches"
        yield Note(text, other.name_span, other.source)


def _feeds(one: Balance, other: Balance) -> bool:
    """Whether a rule builds an operator that another takes out."""
    return any(key in other.removed for key in filter(_is_operator, one.added))


def _is_operator(key: Key) -> bool:
    return isinstance(key, str) and key != CALLS
