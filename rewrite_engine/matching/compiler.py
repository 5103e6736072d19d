"""Compiles one matcher graph to instructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import fx

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.guards import Condition
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import (
    Way,
    below,
    guards_of,
    placeholders_of,
    roots_of,
    ways_of,
)
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching import instructions as code
from rewrite_engine.matching.calls import Call, FamilySlots
from rewrite_engine.matching.chains import Advance, Enter, Repeat
from rewrite_engine.matching.guard_scope import GuardPattern, scope_factory
from rewrite_engine.matching.linking import Block, link
from rewrite_engine.matching.machine import Registers
from rewrite_engine.matching.readings import UNBOUND, readings
from rewrite_engine.matching.slots import Slots
from rewrite_engine.matching.structure import (
    is_others,
    operands,
    shared_node,
)


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
    slots: Slots = attrs.field()
    definite: set[fx.Node] = attrs.field(factory=set)
    possible: set[fx.Node] = attrs.field(factory=set)
    waiting: list[Condition] = attrs.field(factory=list)

    @slots.default
    def _slots_of_the_rule(self) -> Slots:
        return Slots.of(self.rule.matcher_graph)

    @classmethod
    def compile(cls, rule: CompiledRule) -> RuleInstructions:
        return cls(rule).run()

    @property
    def matcher(self) -> fx.Graph:
        return self.rule.matcher_graph

    def run(self) -> RuleInstructions:
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
        block.append(code.Accept(self.slots.layout(self.rule, tuple(roots))))
        entry = link(block, None)
        return RuleInstructions(entry, self.slots.size)

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
        if pattern not in self.slots.nodes:
            return self._expand(pattern, register, block)
        return self._visit_slot(pattern, register, block)

    def _visit_slot(
        self, pattern: fx.Node, register: int, block: Block
    ) -> list[tuple[Any, int]]:
        """A node that other parts of the pattern may refer to: match it once."""
        slot = self.slots.nodes[pattern]
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
        if pattern in self.slots.nodes:
            block.append(code.Record(register, self.slots.nodes[pattern]))
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
                block.append(code.BindOptional(register, self.slots.nodes[inner]))
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
        chain, (link, _, inner, _) = self.slots.chains[pattern], pattern.args
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
        block.append(bind(register, self.slots.nodes[pattern]))
        self._matched(pattern)

    def _matched(self, pattern: fx.Node) -> None:
        self.definite.add(pattern)
        self.possible.add(pattern)

    def _unpack(
        self, items: Sequence[Any], register: int, block: Block
    ) -> list[tuple[Any, int]]:
        registers = [self.slots.new() for _ in items]
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
                branch.append(
                    code.Forget(tuple(self.slots.nodes[n] for n in way.absent))
                )
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
        registers = tuple(self.slots.new() for _ in given)
        block.append(
            Call(
                register,
                registers,
                readings(operator, tuple(given), ... in pattern.args),
                self.slots.nodes[pattern],
                self.slots.spellings[pattern],
                self._family(operator) if operator.is_slot else None,
            )
        )
        return list(zip(given.values(), registers, strict=True))

    def _family(self, operator: OperatorPattern) -> FamilySlots:
        assert self.slots.row is not None
        placeholders = placeholders_of(self.matcher)
        literals = (
            {self.slots.nodes[placeholders[name]]: value for name, value in row.items()}
            for row in operator.literals
        )
        return FamilySlots(self.slots.row, tuple(literals))

    # --- guards and further roots ---

    def _emit_ready_guards(self, block: Block) -> None:
        if not self.waiting:
            return
        known = {name for node in self.definite for name in node.meta.get("names", ())}
        if self.slots.row is not None:
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
        names = self.slots.names()
        wanted = {name: names[name] for name in guard.reads | guard.binds}
        scope = scope_factory(wanted, self._guard_pattern)
        return code.Check(guard, scope, tuple(names[name] for name in guard.binds))

    def _guard_pattern(self, pattern: fx.Node) -> GuardPattern:
        """The program of a pattern inside a guard; it sees the rule's names."""
        compiler = attrs.evolve(
            self,
            slots=attrs.evolve(self.slots),
            definite=set(),
            possible=set(),
            waiting=[],
        )
        register = compiler.slots.new()
        block: Block = []
        # Names of the rule may be bound already: every node is compared.
        compiler.possible = set(below(pattern)) & set(compiler.slots.nodes)
        compiler._visit_all([(pattern, register)], block)
        block.append(code.Found())
        return GuardPattern(link(block, None), register, compiler.slots.size)

    def _climb(self, root: fx.Node, block: Block) -> int:
        shared, depth = shared_node(root, self.definite)
        register = self.slots.new()
        block.append(code.Climb(self.slots.nodes[shared], depth, register))
        return register


def _may_be_absent(pattern: Any) -> bool:
    """Whether it is the name of a value that may be absent, and nothing else."""
    is_name = isinstance(pattern, fx.Node) and pattern.op == "placeholder"
    return is_name and pattern.meta["role"] == "value" and pattern.meta["optional"]
