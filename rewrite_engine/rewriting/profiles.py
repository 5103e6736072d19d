"""What a callable does to its parameters, derived once from its schema or signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import attrs
import torch
from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

from rewrite_engine.rewriting.known_effects import (
    ALIASING_FUNCTIONALS,
    PURE_FUNCTIONALS,
    RANDOM_FUNCTIONALS,
    RUNNING_STATISTICS,
    SWITCHES,
    UNDECLARED_ALIASES,
    UNDECLARED_WRITES,
)


@attrs.frozen
class Slot:
    """Where a call holds one parameter.

    `names` are its keywords, `position` is -1 for a keyword-only parameter, and
    `default` is what an omitted argument means.
    """

    position: int
    names: tuple[str, ...]
    default: Any = None

    def argument(self, node: fx.Node) -> Any:
        """What `node` passes, or the default."""
        args, kwargs = node._args, node._kwargs  # the properties cost as much again
        if 0 <= self.position < len(args):
            return args[self.position]
        for name in self.names if kwargs else ():
            if name in kwargs:
                return kwargs[name]
        return self.default


@attrs.frozen
class Switch:
    """A parameter that turns an effect off when its literal equals `off`."""

    slot: Slot
    off: float | None = 0

    def is_off(self, node: fx.Node) -> bool:
        value = self.slot.argument(node)
        if self.off is None or value is None:
            return value is self.off
        return isinstance(value, int | float) and value == self.off


@attrs.frozen
class Touch:
    """One parameter that a call writes or returns, unless one of `switches` is off."""

    slot: Slot
    writes: bool = False
    aliases: bool = False
    switches: tuple[Switch, ...] = ()


@attrs.frozen
class Profile:
    """What a callable does, for any arguments.

    `gathers`: the result may share storage with any operand. `draws`: random, unless
    one of `switches` is off. `effectful`: must run, whether or not its result is used.
    """

    touches: tuple[Touch, ...] = ()
    switches: tuple[Switch, ...] = ()
    gathers: bool = False
    draws: bool = False
    effectful: bool = False

    def __or__(self, other: Profile) -> Profile:
        """The profile of a callable that does what either does."""
        switches = (self if self.draws else other).switches
        if self.draws and other.draws:
            switches = tuple(s for s in self.switches if s in other.switches)
        return Profile(
            touches=tuple(dict.fromkeys(self.touches + other.touches)),
            switches=switches,
            gathers=self.gathers or other.gathers,
            draws=self.draws or other.draws,
            effectful=self.effectful or other.effectful,
        )

    def applying(self, node: fx.Node) -> Iterator[Touch]:
        """The touches that no switch turns off."""
        switches: tuple[Switch, ...] = ()
        applies = True
        for touch in self.touches:
            # The touches of one callable share their switches.
            if touch.switches is not switches:
                switches = touch.switches
                applies = not any(switch.is_off(node) for switch in switches)
            if applies:
                yield touch

    def is_random(self, node: fx.Node) -> bool:
        return self.draws and not any(switch.is_off(node) for switch in self.switches)


INERT: Final = Profile()
OUT: Final = Touch(Slot(-1, ("out",)), writes=True, aliases=True)
"""The `out=` keyword of torch's functions."""

# The first parameter's keyword differs between schemas and Python bindings.
_SELF_NAMES: Final = ("self", "input", "x", "a", "x1")


def first_operand(*, writes: bool, aliases: bool) -> Touch:
    """The touch of a call's first operand."""
    return Touch(Slot(0, _SELF_NAMES), writes, aliases)


def overload_profile(op: OpOverload) -> Profile:
    """The profile of an operator overload: its schema, where the schema tells."""
    schema = op._schema
    name = schema.name.rpartition("::")[2]
    slots = _schema_slots(schema)
    switches = _switches(slots.values())
    writes = _written(schema, op.namespace) & slots.keys()
    returned = _returned(schema)
    touches = tuple(
        Touch(
            slot,
            writes=key in writes,
            aliases=key in returned,
            switches=switches if key in RUNNING_STATISTICS else (),
        )
        for key, slot in slots.items()
        if key in writes or key in returned
    )
    return Profile(
        touches=touches,
        switches=switches,
        gathers=op.namespace in ("aten", "prims") and name in UNDECLARED_ALIASES,
        draws=torch.Tag.nondeterministic_seeded in op.tags,
        effectful=not schema.returns or _takes_foreign_object(op),
    )


def packet_profile(name: str) -> Profile | None:
    """The profile of any overload of `aten.<name>`; None when there is no such one."""
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, OpOverloadPacket):
        return None
    profile: Profile | None = None
    for overload in packet.overloads():
        op = getattr(packet, overload)
        # Operators of TorchScript's lists and strings share names with tensors'.
        if not torch._C._dispatch_has_kernel(op.name()):
            continue
        found = overload_profile(op)
        profile = found if profile is None else profile | found
    return profile


def functional_profile(function: Callable[..., Any], name: str) -> Profile | None:
    """The profile of a Python function of torch; None when it is not a known one."""
    if not (
        name in PURE_FUNCTIONALS
        or name in RANDOM_FUNCTIONALS
        or name in ALIASING_FUNCTIONALS
    ):
        return None
    slots = _python_slots(function)
    switches = _switches(slots.values())
    touches = [OUT]
    touches += [
        Touch(slots[key], writes=True, switches=switches)
        for key in RUNNING_STATISTICS
        if key in slots
    ]
    if "inplace" in slots:
        first = first_operand(writes=True, aliases=True)
        touches.append(attrs.evolve(first, switches=(Switch(slots["inplace"]),)))
    if "max_norm" in slots:
        renormalizes = Switch(slots["max_norm"], off=None)
        touches.append(
            Touch(slots["weight"], writes=True, switches=(renormalizes,)),
        )
    return Profile(
        touches=tuple(touches),
        switches=switches,
        gathers=name in ALIASING_FUNCTIONALS,
        draws=name in RANDOM_FUNCTIONALS,
    )


def _schema_slots(schema: Any) -> dict[str, Slot]:
    slots = {}
    for position, parameter in enumerate(schema.arguments):
        names = _SELF_NAMES if parameter.name in ("self", "input") else ()
        slots[parameter.name] = Slot(
            -1 if parameter.kwarg_only else position,
            tuple(dict.fromkeys((parameter.name, *names))),
            parameter.default_value if parameter.has_default_value() else None,
        )
    return slots


def _python_slots(function: Callable[..., Any]) -> dict[str, Slot]:
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: Slot(
            position,
            (parameter.name,),
            None if parameter.default is parameter.empty else parameter.default,
        )
        for position, parameter in enumerate(parameters)
    }


def _switches(slots: Iterable[Slot]) -> tuple[Switch, ...]:
    return tuple(Switch(slot) for slot in slots if slot.names[0] in SWITCHES)


def _written(schema: Any, namespace: str) -> set[str]:
    declared = {
        parameter.name
        for parameter in schema.arguments
        if parameter.alias_info is not None and parameter.alias_info.is_write
    }
    if namespace != "aten":
        return declared
    return declared | set(UNDECLARED_WRITES.get(schema.name.removeprefix("aten::"), ()))


def _returned(schema: Any) -> set[str]:
    """The parameters whose storage a result may share, as declared."""
    infos = [result.alias_info for result in schema.returns if result.alias_info]
    marked = {p.name: p.alias_info for p in schema.arguments if p.alias_info}
    if not infos:
        return set()
    # The elements of a returned list carry their labels where Python cannot read them.
    if not all(info.before_set for info in infos):
        return set(marked)
    labels = {label for info in infos for label in info.before_set}
    return {name for name, info in marked.items() if labels & info.before_set}


def _takes_foreign_object(op: OpOverload) -> bool:
    """Whether an operand is a script object, whose state the call may change."""
    if op.namespace == "quantized":  # packed weights, which are never written
        return False
    return any("__torch__" in str(p.type) for p in op._schema.arguments)
