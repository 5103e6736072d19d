"""What leaves the graph with a match, and the effects that must outlive it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

import attrs
from torch import fx

from rewrite_engine.edit import operands_of
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.match import CapturedCalls, Match
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.safety import Refused, check_constants, check_order
from rewrite_engine.rewriting.transaction import Transaction


@attrs.frozen(eq=False)
class Removal:
    """Takes replaced calls out of one graph, or says why they cannot go."""

    transaction: Transaction
    aliases: AliasIndex
    facts: GraphFacts

    def check_constants(self, match: Match, built: Built) -> None:
        """Whether nothing that stays writes what was folded. Raises: Refused"""
        if built.folded:
            gone = _erased(match) | _watching(match)
            check_constants(built.folded, gone, self.aliases)

    def check_effects(self, match: Match, built: Built) -> None:
        """Whether every effect of the match is in the new graph once, in their order.

        Raises: Refused
        """
        check_order(built.copies, self.aliases)
        copies = Counter(built.copies.values())
        unmoved = _erased(match) | _staying(match, built)
        for call in match.calls:
            if call in unmoved or not self.aliases.effect(call).effectful:
                continue
            if copies[call] != 1:
                raise Refused(f"the effect of '{call}' would be lost or repeated")

    def remove(self, match: Match, built: Built) -> None:
        """Detach the calls that are no longer read, and what only they read.

        Raises: Refused, if one stays that is to be erased, or whose effect is in its
        copy, too.
        """
        self._remove(match.calls, _staying(match, built), match.calls)
        detached = self.transaction.detached
        for call in sorted(c for c in _erased(match) if c not in detached):
            readers = [f"is read by '{reader}'" for reader in call.users]
            why = next(iter(readers), "takes another's place")
            raise Refused(f"'{call}' {why}, and stays")
        for call in built.copies.values():
            if call not in detached and self.aliases.effect(call).effectful:
                raise Refused(f"the effect of '{call}' would happen twice")

    def remove_unread(self, node: fx.Node) -> None:
        """Detach a node that is no longer read, and what only it read."""
        self._remove((node,))

    def _remove(
        self,
        nodes: Iterable[fx.Node],
        staying: Container[fx.Node] = (),
        calls: Container[fx.Node] = (),
    ) -> None:
        todo = list(nodes)
        while todo:
            node = todo.pop()
            if node.users or node in staying or not self._may_go(node, calls):
                continue
            operands = tuple(operands_of(node))
            self.transaction.detach(node)
            self.aliases.discard(node)
            todo += operands

    def _may_go(self, node: fx.Node, calls: Container[fx.Node]) -> bool:
        if node.op == "output" or node in self.transaction.detached:
            return False
        if node.op == "placeholder":
            return self.facts.is_lifted(node)
        # The effects of matched calls live on in their copies, or the rule erases them.
        return node in calls or not self.aliases.effect(node).effectful


def _staying(match: Match, built: Built) -> set[fx.Node]:
    """The calls of a match that stay: roots that it keeps, values that take the place
    of others, and what these read.
    """
    kept = {new for new in built.replaced.values() if new in match.calls}
    if match.rule.keep:
        kept |= {match.bindings[name] for name in match.rule.keep} & set(match.roots)
    todo, found = list(kept - built.replaced.keys()), set()
    while todo:
        call = todo.pop()
        if call in match.calls and call not in found and call not in built.replaced:
            found.add(call)
            todo.extend(call.all_input_nodes)
    return found


def _erased(match: Match) -> set[fx.Node]:
    """The calls that the rule takes out of the graph, with their effects."""
    bound = {match.bindings[name] for name in match.rule.erase} - {None}
    captured = {each for each in bound if isinstance(each, CapturedCalls)}
    return (bound - captured).union(*(each.calls for each in captured))


def _watching(match: Match) -> set[fx.Node]:
    """The observers of a match: they write their own state whenever they run."""
    return {
        call
        for call, spelling in match.calls.items()
        if spelling.form is not None and not spelling.signature.functions
    }
