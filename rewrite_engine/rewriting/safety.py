"""Whether one match may be rewritten, and where its new nodes go.

A refusal is a sentence; nothing is ever skipped without one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import attrs
from torch import fx

from rewrite_engine.edit import operands_of
from rewrite_engine.graph_facts import reads_only_shape
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.call_signatures import CallSignatures
from rewrite_engine.rewriting.effect import Effect
from rewrite_engine.rewriting.effects import is_inert


class Refused(Exception):  # noqa: N818 - an outcome, not an error
    """A match is left alone; the message says why."""


@attrs.frozen(eq=False)
class Site:
    """Where a match is rewritten: new nodes go in front of `before`.

    `effects` says what running each matched call does, if that may be anything.
    """

    match: Match
    before: fx.Node
    effects: Mapping[fx.Node, Effect]


def find_site(match: Match, aliases: AliasIndex, signatures: CallSignatures) -> Site:
    """Where the match can be rewritten.

    Raises: Refused, if it cannot be proven safe.
    """
    _check_roots(match)
    _check_containment(match, signatures)
    effects = {c: aliases.effect(c) for c in match.calls if not is_inert(c)}
    site = Site(match, _insertion_point(match), effects)
    _check_barrier(site, aliases)
    if match.rule.builds and any(effect.effectful for effect in effects.values()):
        _check_effects(site, aliases)
        _check_own_order(site, aliases)
    return site


def _check_roots(match: Match) -> None:
    if len(match.roots) > 1 and len(set(match.roots)) < len(match.roots):
        raise Refused("two roots of the pattern are one node")
    for root in match.roots:
        if not match.calls.keys().isdisjoint(root.users):
            raise Refused(f"the root '{root}' is also an inner node of the match")


def _kept(match: Match) -> set[Any]:
    """What stands for the names that the rule keeps."""
    if not match.rule.keep:
        return set()
    return {match.bindings.get(name) for name in match.rule.keep}


def _check_containment(match: Match, signatures: CallSignatures) -> None:
    """Only the roots, and what the rule keeps, may be read outside the match."""
    calls = match.calls
    readable = {*match.roots, *_kept(match)}
    for call in calls:
        if call in readable:
            continue
        for reader in call.users:
            if reader not in calls and not reads_only_shape(reader):
                raise Refused(f"'{call}' is also read by '{reader}'")
        if call in signatures.modules:
            raise Refused(
                f"'{call}' goes to or comes from '{signatures.modules[call]}', whose "
                "call signature is preserved"
            )


def _insertion_point(match: Match) -> fx.Node:
    """After the last input, before the first reader of a result."""
    staying = _staying_reader(match)
    if staying is not None:
        return staying
    if len(match.roots) == 1:
        return match.anchor
    last = max(match.roots)
    readers = [r for root in match.roots for r in root.users if r not in match.calls]
    early = min(readers, default=None)
    if early is None or not early < last:
        return last
    late_input = max(_inputs(match), default=None)
    first = min(match.roots)
    if late_input is not None and first < late_input:
        raise Refused(
            f"the result '{first}' is read by '{early}' before the input "
            f"'{late_input}' exists"
        )
    return first


def _staying_reader(match: Match) -> fx.Node | None:
    """The first root that stays and reads what is replaced."""
    if not match.rule.keep:
        return None
    kept = _kept(match) & {*match.roots}
    replaced = (match.bindings.get(name) for name in match.rule.replaced)
    values = [value for value in replaced if isinstance(value, fx.Node)]
    return min((r for v in values for r in v.users if r in kept), default=None)


def _inputs(match: Match) -> Iterator[fx.Node]:
    """The values that a match reads and does not compute."""
    for call in match.calls:
        for operand in call.all_input_nodes:
            if operand not in match.calls:
                yield operand


def _check_barrier(site: Site, aliases: AliasIndex) -> None:
    """What the match reads must not be written between there and the new place."""
    calls, before = site.match.calls, site.before
    first, last = next(iter(calls)), next(reversed(calls))
    crossed = aliases.all_effects_between(min(first, before), max(last, before), calls)
    for call in calls if crossed else ():
        start, end = _in_order(call, before)
        if not any(start < effect < end for effect in crossed):
            continue
        write = aliases.writes_between(call.all_input_nodes, start, end, calls)
        if write is None and call is not before:
            # The call's own result may be written before the pattern reads it.
            write = aliases.writes_between((call,), start, end, calls)
        if write is not None:
            raise Refused(f"'{write}' may write what '{call}' reads, in between")


def _in_order(a: fx.Node, b: fx.Node) -> tuple[fx.Node, fx.Node]:
    return (b, a) if b < a else (a, b)


def _check_effects(site: Site, aliases: AliasIndex) -> None:
    """Random and writing calls move past nothing that could tell the difference."""
    calls = site.match.calls
    for call, effect in site.effects.items():
        if call is site.before or not effect.effectful:
            continue
        start, end = _in_order(call, site.before)
        other = aliases.obstacle(call, start, end, calls)
        if other is not None:
            raise Refused(f"the effect of '{call}' would move past '{other}'")


def _check_own_order(site: Site, aliases: AliasIndex) -> None:
    """The pattern fixes on which side of its writes each of its reads is."""
    match = site.match
    for write, effect in site.effects.items():
        if not effect.writes:
            continue
        written = aliases.classes(effect.writes)
        readers = (
            call for call in match.calls if aliases.any_in(written, operands_of(call))
        )
        for reader in readers:
            if not (_depends(reader, write, match) or _depends(write, reader, match)):
                raise Refused(
                    f"'{reader}' reads what '{write}' writes, and the pattern does not "
                    f"say which comes first"
                )


def _depends(call: fx.Node, source: fx.Node, match: Match) -> bool:
    """Whether `call` is `source` or computed from it inside the match."""
    todo, seen = [call], {call}
    while todo:
        node = todo.pop()
        if node is source:
            return True
        fresh = {n for n in operands_of(node) if n in match.calls} - seen
        seen |= fresh
        todo += fresh
    return False


def check_reads(
    created: Iterable[fx.Node], replaced: Mapping[fx.Node, fx.Node]
) -> None:
    """Whether every value is there when it is read, and none that is replaced is read.

    Raises: Refused
    """
    for node in created:
        for operand in operands_of(node):
            if operand in replaced:
                raise Refused(f"the right side reads '{operand}', which it replaces")
            if not operand < node:
                raise Refused(f"'{operand}' is not there yet where it would be read")
    for old, new in replaced.items():
        if new in replaced:
            raise Refused(f"the right side reads '{new}', which it replaces")
        early = next((user for user in old.users if not new < user), None)
        if early is not None:
            raise Refused(f"'{old}' is read by '{early}' before '{new}' is there")


def check_order(copies: Mapping[fx.Node, fx.Node], aliases: AliasIndex) -> None:
    """Whether the copies of random and writing calls run in the order of those.

    `copies` gives the original of each copy, in the order in which they were made.

    Raises: Refused
    """
    originals = [old for old in copies.values() if aliases.effect(old).effectful]
    for before, after in pairwise(originals):
        if not before < after:
            raise Refused(f"the effects of '{after}' and '{before}' would be reordered")


def check_constants(
    read: Iterable[fx.Node], erased: Container[fx.Node], aliases: AliasIndex
) -> None:
    """Whether the constants that were read at rewrite time stay what they are.

    Raises: Refused
    """
    for constant in read:
        write = aliases.written(constant, erased)
        if write is not None:
            raise Refused(f"'{write}' may write the constant '{constant}'")


def check_result(
    old: tuple[fx.Node, Effect],
    new: tuple[fx.Node, Effect | None],
    aliases: AliasIndex,
) -> None:
    """Whether a new value can be read wherever an old one is, later writes included.

    A fresh result may be written later whichever node computes it. A view, or a value
    that was there before (it has no effect here), may not take part if anything after
    the old value writes its storage, which a program also does when it writes back the
    new values of buffers and inputs.

    Raises: Refused
    """
    is_fresh = new[1] is not None and not new[1].aliases
    if is_fresh and not old[1].aliases:
        return
    for value in (old[0], new[0]):
        write = aliases.written(value, (), after=old[0])
        if write is not None:
            raise Refused(f"'{write}' may write the storage of '{value}'")
    back = aliases.written_back(old[0], new[0])
    if back is not None:
        raise Refused(f"'{old[0]}' is returned, and '{back}' gets a new value before")
