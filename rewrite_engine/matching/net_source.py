"""A tree of tests as generated Python functions.

They add to `hits` the nodes where rules may match, with the numbers of these rules.
Values are called by their position: `v_0_1` is the second argument of the first
argument of the node `n`. Every name in the source is made here and every constant is
passed beside it: nothing that a rule file says is ever part of the code, and branches
of one shape share theirs, so that a thousand rules need little of it.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from functools import cached_property
from typing import Any, Final

import attrs
from torch import fx

from rewrite_engine.lowering.spellings import CallKey
from rewrite_engine.matching.branches import Branch
from rewrite_engine.matching.generated import ARGUMENTS, function_of
from rewrite_engine.matching.sketches import (
    PLAIN,
    UNKNOWN,
    IsCall,
    IsLiteral,
    Position,
    Test,
    literal_key,
)

Hits = dict[fx.Node, tuple[int, ...]]
"""Nodes where rules may match, with the numbers of these rules."""

_MODULE: Final = object()


def called(node: fx.Node) -> Hashable:
    """What calls of one function or method have in common; modules are all alike."""
    if node.op == "call_module":
        return _MODULE
    return node.target if isinstance(node.target, str) else id(node.target)


def keys_of(test: Test) -> frozenset[Hashable]:
    """What a test looks for: what `called` or `literal_key` may give."""
    if isinstance(test, IsLiteral):
        return frozenset([test.key])
    return frozenset(map(_called_key, test.keys))


def _called_key(call: CallKey) -> Hashable:
    op, target = call
    return target if op in ("call_function", "call_method") else _MODULE


ANY: Final = object()
"""The key under which a table has all rules that it leads to."""

_LEVELS: Final = 2
"""How many more calls are looked up in tables of tables. Each may double them: modules
of all classes have one key, which leads wherever one of them does.
"""

_HELPERS: Final[Mapping[str, Any]] = {
    "ANY": ANY,
    "Node": fx.Node,
    "PLAIN": PLAIN,
    "UNKNOWN": UNKNOWN,
    "called": called,
    "literal_key": literal_key,
}


@attrs.frozen(eq=False, slots=False)
class NetFunction:
    """The source of a function and the constants that it reads.

    These are sets of keys that lead on (`K…`), the rules for each key (`R…`), the
    functions that go on for each key (`F…`), and rules (`A…`).
    """

    text: str
    keys: Mapping[str, frozenset[Hashable]]
    rules: Mapping[str, tuple[int, ...]]
    rules_by_key: Mapping[str, Mapping[Hashable, tuple[int, ...]]]
    functions: Mapping[str, Table]

    @cached_property
    def compiled(self) -> Callable[..., None]:
        """The function, and with it those that it calls."""
        tables = {name: table.compiled() for name, table in self.functions.items()}
        own = {**self.keys, **self.rules, **self.rules_by_key, **tables}
        return function_of(self.text, {**_HELPERS, **own})

    def called(self) -> dict[NetFunction, None]:
        """The functions that it calls, in a stable order."""
        tables = self.functions.values()
        return dict.fromkeys(f for table in tables for f in table.called())


@attrs.frozen(eq=False)
class Table:
    """What goes on for each key: functions, or a table of what is asked next.

    The keys of one operator share it, or there would be a table for each way to spell
    all operators on the way.
    """

    ways: Mapping[Hashable, Table | tuple[NetFunction, ...]]
    rules: tuple[int, ...]
    """All rules that it leads to."""

    def compiled(self) -> dict[Hashable, Any]:
        """As generated code reads it."""
        made = {way: _compiled(way) for way in dict.fromkeys(self.ways.values())}
        found = {key: made[way] for key, way in self.ways.items()}
        return {**found, ANY: self.rules}

    def called(self) -> Iterator[NetFunction]:
        """The functions that go on."""
        for way in dict.fromkeys(self.ways.values()):
            yield from way.called() if isinstance(way, Table) else way


def _compiled(way: Table | tuple[NetFunction, ...]) -> Any:
    if isinstance(way, Table):
        return way.compiled()
    return _all_of([function.compiled for function in way])


def _all_of(functions: list[Callable[..., None]]) -> Callable[..., None]:
    if len(functions) == 1:
        return functions[0]

    def every(*values: object) -> None:
        for function in functions:
            function(*values)

    return every


def net_function(root: Branch) -> NetFunction:
    """`select(nodes, hits)`, the function of a whole tree."""
    emitter = _Emitter()
    emitter.line("def select(nodes, hits):")
    emitter.indent = 1
    emitter.line("for n in nodes:")
    emitter.indent = 2
    emitter.branch(root, ())
    return emitter.finished()


def _branch_function(branch: Branch, known: tuple[Position, ...]) -> NetFunction:
    """The function of a branch, given the values that are known there."""
    emitter = _Emitter()
    emitter.line(f"def branch({_arguments(known)}):")
    emitter.indent = 1
    emitter.branch(branch, known)
    return emitter.finished()


@attrs.define(eq=False)
class _Emitter:
    """Emits one function. `known` are the positions whose values it has at hand."""

    indent: int = 0
    lines: list[str] = attrs.field(factory=list)
    keys: dict[str, frozenset[Hashable]] = attrs.field(factory=dict)
    rules: dict[str, tuple[int, ...]] = attrs.field(factory=dict)
    by_key: dict[str, dict[Hashable, tuple[int, ...]]] = attrs.field(factory=dict)
    functions: dict[str, Table] = attrs.field(factory=dict)
    made: dict[Branch, NetFunction] = attrs.field(factory=dict)

    def finished(self) -> NetFunction:
        text = "\n".join(self.lines) + "\n"
        return NetFunction(text, self.keys, self.rules, self.by_key, self.functions)

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def branch(self, branch: Branch, known: tuple[Position, ...]) -> None:
        if branch.rules:
            self._hit(branch.rules)
        indent = self.indent
        for (position, kind), tests in branch.tests.items():
            self._load(position, tests)
            self._find_key(_value(position), kind, tests)
            self._go_on(tests, (*known, position))
            self.indent = indent

    def _hit(self, rules: Iterable[int]) -> None:
        name = f"A{len(self.rules)}"
        self.rules[name] = tuple(sorted(rules))
        self.line(f"hits[n] = hits.get(n, ()) + {name}")

    def _hit_all(self, tests: Mapping[Test, Branch]) -> None:
        self.indent += 1
        self._hit(_rules_below(tests.values()))
        self.indent -= 1

    def _load(self, position: Position, tests: Mapping[Test, Branch]) -> None:
        """Read an argument. One that is not there may be a default or a keyword."""
        owner, index = _value(position[:-1]), position[-1]
        self.line("try:")
        self.line(f"    {_value(position)} = {owner}.{ARGUMENTS}[{index}]")
        self.line("except IndexError:")
        self._hit_all(tests)
        self.line("else:")
        self.indent += 1

    def _find_key(
        self, value: str, kind: type[Test], tests: Mapping[Test, Branch]
    ) -> None:
        if kind is IsCall:
            keys = (key for test in tests for key in keys_of(test))
            self.line(f"key = {_call_key(value, keys)}")
            return
        plain = f"{value} if {value}.__class__ in PLAIN else literal_key({value})"
        self.line(f"key = {plain}")
        self.line("if key is UNKNOWN:")
        self._hit_all(tests)

    def _go_on(self, tests: Mapping[Test, Branch], known: tuple[Position, ...]) -> None:
        """Where the key is: in place if there is one way, else by a table."""
        if len(tests) == 1:
            ((test, branch),) = tests.items()
            name = f"K{len(self.keys)}"
            self.keys[name] = keys_of(test)
            self.line(f"if key in {name}:")
            self.indent += 1
            self.branch(branch, known)
            return
        leaves = {test: b for test, b in tests.items() if not b.tests}
        if leaves:
            self._find_rules(leaves)
        if len(leaves) < len(tests):
            inner = {test: b for test, b in tests.items() if test not in leaves}
            self._find_function(inner, known)

    def _find_rules(self, leaves: Mapping[Test, Branch]) -> None:
        name = f"R{len(self.by_key)}"
        rules = self.by_key[name] = {}
        for test, branch in leaves.items():
            for key in keys_of(test):
                rules[key] = (*rules.get(key, ()), *branch.rules)
        self.line(f"if key in {name}:")
        self.line(f"    hits[n] = hits.get(n, ()) + {name}[key]")

    def _find_function(
        self, tests: Mapping[Test, Branch], known: tuple[Position, ...]
    ) -> None:
        """By a table; what all branches ask next is asked here, of tables in it."""
        asked = _asked_by_all(list(tests.values()), known)
        known = (*known, *asked)
        name = f"F{len(self.functions)}"
        self.functions[name] = self._table(tests.items(), len(asked), known)
        self.line(f"go_on = {name}.get(key)")
        for position, called_keys in asked.items():
            self.line("if go_on is not None:")
            self.indent += 1
            self._go_on_here(position, called_keys)
        self.line("if go_on is not None:")
        self.line(f"    go_on({_arguments(known)})")

    def _go_on_here(self, position: Position, keys: Iterable[Hashable]) -> None:
        owner, value = _value(position[:-1]), _value(position)
        self.line("try:")
        self.line(f"    {value} = {owner}.{ARGUMENTS}[{position[-1]}]")
        self.line("except IndexError:")
        self.line("    hits[n] = hits.get(n, ()) + go_on[ANY]")
        self.line("    go_on = None")
        self.line("else:")
        self.line(f"    go_on = go_on.get({_call_key(value, keys)})")

    def _table(
        self,
        tests: Collection[tuple[Test, Branch]],
        levels: int,
        known: tuple[Position, ...],
    ) -> Table:
        """By a key, and if more levels are asked, by one more for each of them."""
        branches: dict[Hashable, list[Branch]] = {}
        for test, branch in tests:
            for key in keys_of(test):
                branches.setdefault(key, []).append(branch)
        found = {key: tuple(each) for key, each in branches.items()}
        ways = {
            each: self._way(each, levels, known)
            for each in dict.fromkeys(found.values())
        }
        return Table(
            {key: ways[each] for key, each in found.items()},
            _rules_below(branch for _, branch in tests),
        )

    def _way(
        self, branches: tuple[Branch, ...], levels: int, known: tuple[Position, ...]
    ) -> Table | tuple[NetFunction, ...]:
        if levels == 0:
            return tuple(self._function(branch, known) for branch in branches)
        below = [test for b in branches for test in _only_tests(b).items()]
        return self._table(below, levels - 1, known)

    def _function(self, branch: Branch, known: tuple[Position, ...]) -> NetFunction:
        if branch not in self.made:
            self.made[branch] = _branch_function(branch, known)
        return self.made[branch]


def _asked_by_all(
    branches: list[Branch], known: tuple[Position, ...]
) -> dict[Position, set[Hashable]]:
    """Where all branches look for a call, and for nothing else, and so on below these;
    with the keys that they look for.
    """
    asked: dict[Position, set[Hashable]] = {}
    while len(asked) < _LEVELS:
        questions = {question for b in branches for question in b.tests}
        if len(questions) != 1 or not all(b.tests and not b.rules for b in branches):
            return asked
        ((position, kind),) = questions
        if kind is not IsCall or position in known or position in asked:
            return asked
        tests = [test for b in branches for test in _only_tests(b).items()]
        asked[position] = {key for test, _ in tests for key in keys_of(test)}
        branches = [branch for _, branch in tests]
    return asked


def _rules_below(branches: Iterable[Branch]) -> tuple[int, ...]:
    return tuple(sorted(frozenset().union(*(b.rules_below for b in branches))))


def _only_tests(branch: Branch) -> Mapping[Test, Branch]:
    (tests,) = branch.tests.values()
    return tests


def _call_key(value: str, keys: Iterable[Hashable]) -> str:
    functions = all(isinstance(key, int) for key in keys)
    target = f"id({value}.target)" if functions else f"called({value})"
    return f"{target} if {value}.__class__ is Node else None"


def _arguments(known: tuple[Position, ...]) -> str:
    return ", ".join(["n", "hits", *map(_value, known)])


def _value(position: Position) -> str:
    """What the value at a position is called."""
    return "_".join(map(str, ("v", *position))) if position else "n"
