"""Rewrites of calls that touch no storage but that of their own results.

What was checked for the first of equal matches holds for the others, but for who reads
the inner calls and what stands between them. So there is little left to do, and a
function of its own does it, whose source is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import chain
from typing import Any, Final, TypeAlias

import attrs
from torch import fx

from rewrite_engine.edit import operands_of
from rewrite_engine.matching.generated import function_of
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.worklist import Change
from rewrite_engine.rewriting import metadata
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.constants import Store
from rewrite_engine.rewriting.effect import PURE
from rewrite_engine.rewriting.fixups import heirs_of
from rewrite_engine.rewriting.module_places import settle_pure
from rewrite_engine.rewriting.recipes import Operands, Recipe, Step
from rewrite_engine.rewriting.removal import Removal
from rewrite_engine.rewriting.safety import Refused, check_result
from rewrite_engine.rewriting.twins import Index

Rewrite: TypeAlias = Callable[[list[fx.Node], Store, Removal], Change | None]


@attrs.frozen(eq=False, slots=False)
class Plain:
    """How to rewrite matches with one outline; nodes are given by their index in it,
    and new nodes are counted after them.
    """

    title: str
    """That of the rule."""
    given: int
    """How many nodes the outline has."""
    calls: tuple[int, ...]
    """The matched calls, in graph order: the anchor, which is first in the outline, is
    the last."""
    targets: tuple[str, ...]
    """What they call, as their history names it."""
    readers: tuple[tuple[int, int], ...]
    """The inner calls, and how many of the matched ones read them."""
    steps: tuple[Step, ...]
    heirs: tuple[tuple[int, int | None], ...]
    """The new nodes, each with the matched call that it takes after, if it is one."""
    views: tuple[int, ...]
    """The new nodes that may share the storage of their operands."""
    result: int
    """What takes the place of the anchor."""
    unread: tuple[int, ...]
    """The operands of matched calls that no new node reads."""
    settles: bool
    """Whether new nodes are moved to where their module runs."""

    @property
    def created(self) -> range:
        """The new nodes."""
        return range(self.given, self.given + len(self.steps))

    @cached_property
    def rewrite(self) -> Rewrite:
        """A function that rewrites a match with these nodes.

        It returns None, and has done nothing, if the match takes a closer look.
        """
        writer = _Writer(self)
        return function_of("\n".join(writer.lines), writer.names)


def _is_settled(old: fx.Node, new: fx.Node, aliases: AliasIndex) -> bool:
    """Whether what is there already can be read in the place of a new value."""
    try:
        check_result((old, PURE), (new, None), aliases)
    except Refused:
        return False
    return True


_HELPERS: Final[dict[str, Any]] = {
    "Change": Change,
    "fill": metadata.fill,
    "inherit": metadata.inherit,
    "is_settled": _is_settled,
    "keep_value": metadata.keep_value,
    "len": len,
    "list": list,
    "place_of": metadata.place_of,
    "provenance": metadata.provenance,
    "settle": settle_pure,
}


class _Writer:
    """The source of a rewrite: node `n3` has the number three, and what is no node is
    passed beside the text.
    """

    def __init__(self, plain: Plain) -> None:
        self.lines = ["def rewrite(nodes, store, removal):"]
        self.names = dict(_HELPERS)
        self._checks(plain)
        self._steps(plain)
        self._metadata(plain)
        self._exchange(plain)

    def _line(self, text: str) -> None:
        self.lines.append(f"    {text}")

    def _constant(self, value: Any) -> str:
        name = f"C{len(self.names)}"
        self.names[name] = value
        return name

    def _checks(self, plain: Plain) -> None:
        self._line("aliases, transaction = removal.aliases, store.transaction")
        self._line(f"{_nodes(range(plain.given))} = nodes")
        for index, readers in plain.readers:
            self._line(f"if len(n{index}.users) != {readers}: return None")
        first = plain.calls[0]
        self._line(f"if aliases.all_effects_between(n{first}, n0): return None")
        if plain.result < plain.given:
            settled = f"is_settled(n0, n{plain.result}, aliases)"
            self._line(f"if not {settled}: return None")

    def _steps(self, plain: Plain) -> None:
        for index, step in enumerate(plain.steps, plain.given):
            target, name = self._constant(step.target), self._constant(step.name)
            args = "".join(f"{self._argument(arg)}, " for arg in step.args)
            named = self._keywords(step.kwargs)
            given = f"n0, {step.op!r}, {target}, ({args}), {named}"
            self._line(f"n{index} = transaction.create({given}, {name})")
            if step.derivation is not None:
                derivation = self._constant(step.derivation)
                like = None if step.like is None else f"n{step.like}"
                self._line(f"store.types.infer_again(n{index}, {derivation}, {like})")
            if index in plain.views:
                self._line(f"aliases.add(n{index})")

    def _keywords(self, given: Mapping[str, Any]) -> str:
        pairs = (f"{self._constant(k)}: {self._argument(v)}" for k, v in given.items())
        return f"{{{', '.join(pairs)}}}"

    def _argument(self, value: Any) -> str:
        if isinstance(value, Index):
            return f"n{value}"
        if isinstance(value, Operands):
            return f"[{', '.join(map(self._argument, value))}]"
        return self._constant(value)

    def _metadata(self, plain: Plain) -> None:
        title, targets = self._constant(plain.title), self._constant(plain.targets)
        if plain.heirs:
            self._line(f"calls = [{_nodes(plain.calls)}]")
            self._line(f"history = provenance({title}, calls, {targets})")
        for index, heir in plain.heirs:
            if heir is None:
                self._line(f"fill(n{index}, place_of(calls))")
            else:
                self._line(f"inherit(n{index}, n{heir})")
            own = "history" if index == plain.heirs[-1][0] else "list(history)"
            self._line(f"n{index}.meta['from_node'] = {own}")
            if index == plain.result:
                self._line(f"keep_value(n{index}, n0)")
        if plain.settles and plain.heirs:
            self._line(f"settle(calls, [{_nodes(plain.created)}])")

    def _exchange(self, plain: Plain) -> None:
        self._line("readers = list(n0.users)")
        self._line(f"transaction.replace_uses(n0, n{plain.result})")
        self._line(f"aliases.unite(n0, n{plain.result})")
        for index in reversed(plain.calls):
            self._line(f"transaction.detach(n{index})")
        for index in plain.unread:
            self._line(f"if not n{index}.users: removal.remove_unread(n{index})")
        created = _nodes(plain.created)
        self._line(f"return Change([{created}], {{n{plain.result}: readers}})")


def _nodes(indices: Iterable[int]) -> str:
    return "".join(f"n{index}, " for index in indices)


def plain(
    match: Match,
    nodes: list[fx.Node],
    built: Built,
    recipe: Recipe,
    store: Store,
    aliases: AliasIndex,
) -> Plain | None:
    """How a match was rewritten, whose outline has these nodes; None if it took more.

    The new nodes are there, and the graph still reads the old ones.
    """
    steps = [step for step in recipe.steps if isinstance(step, Step)]
    effects = {n: aliases.effect(n) for n in (*match.calls, *built.created)}
    is_whole = len(steps) == len(recipe.steps) and not recipe.folding.read
    if not is_whole or any(effect.effectful for effect in effects.values()):
        return None
    if not (_replaces_all(match, built) and _are_repeated(steps, store)):
        return None
    new = built.replaced[match.anchor]
    if effects[match.anchor].aliases or (new in effects and effects[new].aliases):
        return None
    indices = {node: index for index, node in enumerate([*nodes, *built.created])}
    heirs = heirs_of(built)
    read = {operand for node in built.created for operand in operands_of(node)}
    calls = list(match.calls)
    return Plain(
        title=match.rule.title,
        given=len(nodes),
        calls=tuple([indices[call] for call in calls]),
        targets=tuple(map(metadata.target_name, calls)),
        readers=tuple([(indices[c], _readers(c, match)) for c in calls[:-1]]),
        steps=tuple(steps),
        heirs=tuple([(indices[n], indices.get(heirs.get(n))) for n in built.created]),
        views=tuple([indices[n] for n in built.created if effects[n].aliases]),
        result=indices[new],
        unread=tuple(
            [i for n, i in indices.items() if n not in read and n not in effects]
        ),
        settles=store.state.is_exported,
    )


def _replaces_all(match: Match, built: Built) -> bool:
    """Whether new values take the place of the match, and none of its calls stays."""
    rule, calls = match.rule, match.calls
    if rule.keep or rule.erase or rule.meta or [*built.replaced] != [match.anchor]:
        return False
    read = chain(built.replaced.values(), *map(operands_of, built.created))
    return calls.keys().isdisjoint(read)


def _are_repeated(steps: Iterable[Step], store: Store) -> bool:
    """Whether no value has to be derived anew."""
    return not store.types.records or all(step.derivation for step in steps)


def _readers(call: fx.Node, match: Match) -> int:
    return len(call.users.keys() & match.calls.keys())
