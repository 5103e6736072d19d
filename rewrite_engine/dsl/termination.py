"""Whether rules come to an end: some count gets less with every rewrite.

Counts are tried one after the other, as the letters of a word are: rules that lessen
the first one, which no rule adds to, are done with; what is left is judged by the next.
A rule that runs once at each place needs no such count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rewrite_engine.dsl.checked import Rule
from rewrite_engine.dsl.counts import Balance, balances
from rewrite_engine.dsl.scopes import span_of_name
from rewrite_engine.errors import Diagnostic, Note


def endless(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """A finding for each rule of a phase that may go on until a limit stops it."""
    left = _undecided([b for b in balances(rules) if not b.rule.once])
    seen: set[str] = set()
    for balance in left:
        rule = balance.rule
        if rule.name not in seen:
            seen.add(rule.name)
            yield _finding(balance, [other for other in left if other.rule != rule])


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


def _finding(balance: Balance, others: list[Balance]) -> Diagnostic:
    rule = balance.rule
    message = f"nothing shows that `{rule.name}` comes to an end"
    notes = [Note("it is stopped, and taken back, at the limits of a run")]
    if _feeds(balance, balance):
        message = f"`{rule.name}` may match what it builds, without end"
    else:
        fed = [o.rule for o in others if _feeds(balance, o) and _feeds(o, balance)]
        for other in {other.name: other for other in fed}.values():
            span = span_of_name(other.source, other.span, other.name)
            text = f"`{other.name}` matches what it builds, and builds what it matches"
            notes.append(Note(text, span, other.source))
    hint = "write `once`, or a guard that what is built does not fulfil"
    span = span_of_name(rule.source, rule.span, rule.name)
    return Diagnostic("W501", message, span, rule.source, tuple(notes), hint)


def _feeds(one: Balance, other: Balance) -> bool:
    """Whether a rule builds an operator that another takes out."""
    operators = (key for key in one.added if isinstance(key, str) and "." in key)
    return any(key in other.removed for key in operators)
