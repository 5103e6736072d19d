"""Compiles one matcher graph to instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from torch import fx

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.guards import Condition
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import (
    Way,
    below,
    chains_below,
    guards_of,
    is_shared,
    placeholders_of,
    roots_of,
    ways_of,
)
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching import instructions as code
from rewrite_engine.matching.calls import Call, FamilySlots
from rewrite_engine.matching.chains import Advance, ChainSlots, Enter, Repeat
from rewrite_engine.matching.guard_scope import GuardPattern, scope_factory
from rewrite_engine.matching.layouts import CaptureLayout, MatchLayout
from rewrite_engine.matching.machine import Registers
from rewrite_engine.matching.readings import UNBOUND, readings
from rewrite_engine.matching.structure import (
    calls_between,
    is_others,
    operands,
    shared_node,
)

Block = list[Any]
"""Instructions in the order in which they run, before they are linked."""


@attrs.frozen(eq=False)
class RuleInstructions:
    """The instructions of one rule, which run at an anchor."""

    entry: code.Instruction
    size: int
    """How many registers they use."""

    def registers(self, anchor: fx.Node) -> Registers:
        """Those of a search at a node."""
        registers: Registers = [UNBOUND] * self.size
        registers[0] = anchor
        return registers


@attrs.define(eq=False)
class RuleCompiler:
    """Emits blocks in matching order, tracking which pattern nodes are matched.

    `definite` nodes are matched on every path to here, `possible` ones on some.
    """

    rule: CompiledRule
    slots: dict[fx.Node, int] = attrs.field(factory=dict)
    spelling_slots: dict[fx.Node, int] = attrs.field(factory=dict)
    chains: dict[fx.Node, ChainSlots] = attrs.field(factory=dict)
    size: int = 1
    row: int | None = None
    definite: set[fx.Node] = attrs.field(factory=set)
    possible: set[fx.Node] = attrs.field(factory=set)
    waiting: list[Condition] = attrs.field(factory=list)

    @classmethod
    def compile(cls, rule: CompiledRule) -> RuleInstructions:
        return cls(rule).run()

    @property
    def matcher(self) -> fx.Graph:
        return self.rule.matcher_graph

    def run(self) -> RuleInstructions:
        self._assign_slots()
        guards = guards_of(self.matcher)
        refusals = [guard for guard in guards if guard.reason is not None]
        self.waiting = [guard for guard in guards if guard.reason is None]
        block: Block = [code.Start()]
        roots = []
        for index, root in enumerate(roots_of(self.matcher)):
            register = 0 if index == 0 else self._climb(root, block)
            self._visit_all([(root, register)], block, outermost=True)
            roots.append(register)
        block += map(self._check, [*self.waiting, *refusals])
        block.append(code.Accept(self._layout(tuple(roots))))
        entry = link(block, None)
        return RuleInstructions(entry, self.size)

    def _layout(self, roots: tuple[int, ...]) -> MatchLayout:
        calls = (
            (self.slots[node], spelling)
            for node, spelling in self.spelling_slots.items()
            if "each" not in node.meta
        )
        return MatchLayout(
            self.rule,
            self._names(),
            tuple(calls),
            dict(self._captures()),
            tuple(chain.calls for chain in self.chains.values()),
            self.row,
            roots,
        )

    # --- registers ---

    def _register(self) -> int:
        self.size += 1
        return self.size - 1

    def _assign_slots(self) -> None:
        for node in self.matcher.nodes:
            named = node.op == "placeholder" or "names" in node.meta
            if named or is_shared(node):
                self.slots[node] = self._register()
            if isinstance(node.target, OperatorPattern):
                self.slots.setdefault(node, self.size)
                self.size = max(self.size, self.slots[node] + 1)
                self.spelling_slots[node] = self._register()
                if node.target.is_slot and self.row is None:
                    self.row = self._register()
        for node in self.matcher.nodes:
            if node.target is markers.chain:
                self.chains[node] = self._chain_slots(node)

    def _chain_slots(self, chain: fx.Node) -> ChainSlots:
        link, hole, _, least = chain.args
        self.slots[hole] = self._register()
        inside = list(below(link))
        named = [node for node in inside if node.op == "placeholder"]
        calls = [node for node in inside if node in self.spelling_slots]
        spellings = [self.spelling_slots[node] for node in calls]
        local = [self.slots[node] for node in inside if node in self.slots]
        return ChainSlots(
            self._register(),
            self.slots[hole],
            self._register(),
            self._register(),
            tuple((self.slots[node], self._register()) for node in named),
            tuple(zip((self.slots[n] for n in calls), spellings, strict=True)),
            (*local, *spellings),
            least,
        )

    def _names(self) -> dict[str, int]:
        lists = dict(pair for chain in self.chains.values() for pair in chain.lists)
        return {
            name: lists.get(slot, slot)
            for node, slot in self.slots.items()
            for name in node.meta.get("names", ())
        }

    def _captures(self) -> Iterator[tuple[str, CaptureLayout]]:
        for node in self.matcher.nodes:
            if node.target is not markers.captured:
                continue
            name, value, hole = node.args
            inside = calls_between(value, hole)
            calls = tuple(self.slots[call] for call in inside)
            held = None if hole is None else self._hole_slot(hole)
            if value.target is markers.chain:
                held = self.chains[value].current
            chains = tuple(self.chains[chain].calls for chain in _held(value, hole))
            yield name, CaptureLayout(self.slots[node], held, calls, chains)

    def _hole_slot(self, hole: fx.Node) -> int | None:
        return self.slots.get(hole)

    # --- visiting ---

    def _visit_all(
        self, todo: list[tuple[Any, int]], block: Block, *, outermost: bool = False
    ) -> None:
        """Emit the matching of each (pattern, register), depth first, in order."""
        todo.reverse()
        while todo:
            pattern, register = todo.pop()
            todo.extend(reversed(self._visit(pattern, register, block)))
            if outermost:
                self._emit_ready_guards(block)

    def _visit(
        self, pattern: Any, register: int, block: Block
    ) -> list[tuple[Any, int]]:
        """Emit the matching of one pattern node; what is left to visit below it."""
        if isinstance(pattern, (list, tuple)):
            return self._unpack(pattern, register, block)
        if not isinstance(pattern, fx.Node):
            block.append(code.Equal(register, pattern))
            return []
        if pattern.op == "placeholder":
            self._bind(pattern, register, block)
            return []
        if pattern not in self.slots:
            return self._expand(pattern, register, block)
        return self._visit_slot(pattern, register, block)

    def _visit_slot(
        self, pattern: fx.Node, register: int, block: Block
    ) -> list[tuple[Any, int]]:
        """A node that other parts of the pattern may refer to: match it once."""
        slot = self.slots[pattern]
        if pattern in self.definite:
            block.append(code.Same(register, slot))
            return []
        seen = pattern in self.possible
        self._matched(pattern)
        if not seen:
            return self._expand(pattern, register, block)
        inner: Block = []
        self._visit_all(self._expand(pattern, register, inner), inner)
        block.append((code.Once(register, slot), inner))
        return []

    def _expand(
        self, pattern: fx.Node, register: int, block: Block
    ) -> list[tuple[Any, int]]:
        if isinstance(pattern.target, OperatorPattern):
            return self._call(pattern, register, block)
        if pattern in self.slots:
            block.append(code.Record(register, self.slots[pattern]))
        return self._visit_marker(pattern, register, block)

    def _visit_marker(
        self, pattern: fx.Node, register: int, block: Block
    ) -> list[tuple[Any, int]]:
        if pattern.target is markers.captured:
            return [(pattern.args[1], register)]
        if pattern.target is markers.chain:
            return self._chain(pattern, register, block)
        if pattern.target is markers.maybe:
            inner = pattern.args[0]
            if _may_be_absent(inner):
                block.append(code.BindOptional(register, self.slots[inner]))
                self.possible.add(inner)
                return []
            branches = self._branches(ways_of(pattern), register)
            block.append((code.IfAbsent(register), branches))
        elif pattern.target not in (markers.anything, markers.hole):
            branches = self._branches(ways_of(pattern), register)
            block.append((code.Fork(), branches))
        return []

    def _chain(
        self, pattern: fx.Node, register: int, block: Block
    ) -> list[tuple[Any, int]]:
        """Links are matched in a loop; what they bind is gathered in lists."""
        chain, (link, _, inner, _) = self.chains[pattern], pattern.args
        block.append(Enter(register, chain))
        body: Block = []
        self._visit_all([(link, chain.current)], body)
        body.append(Advance(chain))
        block.append((Repeat(chain), body))
        self.definite |= {n for n in below(link) if n.op == "placeholder"}
        return [(inner, chain.current)]

    def _bind(self, pattern: fx.Node, register: int, block: Block) -> None:
        binds: Mapping[str, Callable[[int, int], code.Instruction]] = {
            "value": code.BindValue,
            "literal": code.BindLiteral,
            "others": code.BindList,
        }
        bind = binds[pattern.meta["role"]]
        block.append(bind(register, self.slots[pattern]))
        self._matched(pattern)

    def _matched(self, pattern: fx.Node) -> None:
        self.definite.add(pattern)
        self.possible.add(pattern)

    def _unpack(
        self, items: Sequence[Any], register: int, block: Block
    ) -> list[tuple[Any, int]]:
        registers = [self._register() for _ in items]
        star = next((i for i, item in enumerate(items) if is_others(item)), None)
        head = tuple(registers if star is None else registers[:star])
        tail = () if star is None else tuple(registers[star + 1 :])
        others = None if star is None else registers[star]
        block.append(code.Unpack(register, head, others, tail))
        return list(zip(items, registers, strict=True))

    # --- branches ---

    def _branches(self, ways: Sequence[Way], register: int) -> list[Block]:
        before, ends, blocks = set(self.definite), [], []
        for way in ways:
            self.definite = set(before)
            branch: Block = []
            if way.absent:
                branch.append(code.Forget(tuple(self.slots[n] for n in way.absent)))
            todo = [] if way.pattern is None else [(way.pattern, register)]
            self._visit_all(todo, branch)
            ends.append(self.definite)
            blocks.append(branch)
        self.definite = set.intersection(*ends)
        return blocks

    # --- calls ---

    def _call(
        self, pattern: fx.Node, register: int, block: Block
    ) -> list[tuple[Any, int]]:
        operator: OperatorPattern = pattern.target
        given = operands(pattern)
        registers = tuple(self._register() for _ in given)
        block.append(
            Call(
                register,
                registers,
                readings(operator, tuple(given), ... in pattern.args),
                self.slots[pattern],
                self.spelling_slots[pattern],
                self._family(operator) if operator.is_slot else None,
            )
        )
        return list(zip(given.values(), registers, strict=True))

    def _family(self, operator: OperatorPattern) -> FamilySlots:
        assert self.row is not None
        placeholders = placeholders_of(self.matcher)
        literals = (
            {self.slots[placeholders[name]]: value for name, value in row.items()}
            for row in operator.literals
        )
        return FamilySlots(self.row, tuple(literals))

    # --- guards and further roots ---

    def _emit_ready_guards(self, block: Block) -> None:
        if not self.waiting:
            return
        known = {name for node in self.definite for name in node.meta.get("names", ())}
        if self.row is not None:
            known |= set(self.rule.family_literals)
        for guard in list(self.waiting):
            if guard.reads <= known:
                self.waiting.remove(guard)
                block.append(self._check(guard))
                known |= guard.binds
                self._bind_dimensions(guard)

    def _bind_dimensions(self, guard: Condition) -> None:
        placeholders = placeholders_of(self.matcher)
        self.definite |= {placeholders[name] for name in guard.binds}

    def _check(self, guard: Condition) -> code.Check:
        names = self._names()
        wanted = {name: names[name] for name in guard.reads | guard.binds}
        scope = scope_factory(wanted, self._guard_pattern)
        return code.Check(guard, scope, tuple(names[name] for name in guard.binds))

    def _guard_pattern(self, pattern: fx.Node) -> GuardPattern:
        """The program of a pattern inside a guard; it sees the rule's names."""
        compiler = attrs.evolve(self, definite=set(), possible=set(), waiting=[])
        register = compiler._register()
        block: Block = []
        # Names of the rule may be bound already: every node is compared.
        compiler.possible = set(below(pattern)) & set(compiler.slots)
        compiler._visit_all([(pattern, register)], block)
        block.append(code.Found())
        return GuardPattern(link(block, None), register, compiler.size)

    def _climb(self, root: fx.Node, block: Block) -> int:
        shared, depth = shared_node(root, self.definite)
        register = self._register()
        block.append(code.Climb(self.slots[shared], depth, register))
        return register


def _held(value: fx.Node, hole: fx.Node | None) -> list[fx.Node]:
    """The chains of a capture: down to its hole, or the one that it names."""
    if hole is None:
        return [value] if value.target is markers.chain else []
    outside = set(below(hole))
    return [chain for chain in chains_below(value) if chain not in outside]


def _may_be_absent(pattern: Any) -> bool:
    """Whether it is the name of a value that may be absent, and nothing else."""
    is_name = isinstance(pattern, fx.Node) and pattern.op == "placeholder"
    return is_name and pattern.meta["role"] == "value" and pattern.meta["optional"]


def link(block: Block, after: Any) -> Any:
    """Set the successors of a block's instructions; its first instruction."""
    for item in reversed(block):
        after = _link_item(item, after)
    return after


def _link_item(item: Any, after: Any) -> Any:
    if not isinstance(item, tuple):
        item.next = after
        return item
    instruction, inner = item
    if isinstance(instruction, code.Once):
        instruction.next = after
        instruction.first = link(inner, after)
    elif isinstance(instruction, Repeat):
        instruction.done = after
        instruction.link = link(inner, instruction)
    elif isinstance(instruction, code.IfAbsent):
        instruction.absent, instruction.present = (link(b, after) for b in inner)
    else:
        instruction.branches = [link(branch, after) for branch in inner]
    return instruction
