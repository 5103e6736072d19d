"""What one node reads, writes and aliases: a pure function of the node.

Whatever is not known to be harmless is reported as an effect. Two limits: a function
that is not known is taken to return nothing but its operands' storage or new storage,
and different inputs of a graph are taken to be different tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

import attrs
import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch._ops import OpOverload, OpOverloadPacket

from rewrite_engine.rewriting.effect import PURE, Effect, clobber, gather
from rewrite_engine.rewriting.known_effects import (
    ALIASING_METHODS,
    GATHERING_CALLABLES,
    IN_PLACE_OPERATORS,
    METADATA_ATTRIBUTES,
    PURE_CALLABLES,
    PURE_METHODS,
)
from rewrite_engine.rewriting.module_effects import module_effect
from rewrite_engine.rewriting.profiles import (
    INERT,
    OUT,
    Profile,
    first_operand,
    functional_profile,
    overload_profile,
    packet_profile,
)
from rewrite_engine.rewriting.subgraphs import Subgraph, runs_subgraphs, subgraphs_of
from rewrite_engine.torch_ops import only_overload

_Rule = Callable[[fx.Node], Effect]


def effect_of(node: fx.Node, module: nn.Module | None = None) -> Effect:
    """The effect of `node`; `module` resolves the targets of `call_module` nodes."""
    if node.op == "call_function":
        return _rule_of(node)(node)
    if node.op == "call_method":
        return _method_rule(str(node.target))(node)
    if node.op == "call_module":
        return module_effect(node, module)
    return PURE


def is_inert(node: fx.Node) -> bool:
    """Whether a node calls a function that is known to have no effect on any operands.

    Cheaper than to ask for its effect, which may be none, too, if this is false.
    """
    return node.op == "call_function" and _rule_of(node) is _pure


def _rule_of(node: fx.Node) -> _Rule:
    # Hashing an operator overload runs Python code; hashing its address does not.
    known = _RULES.get(id(node.target))
    return _learn(node) if known is None else known[1]


def _pure(node: fx.Node) -> Effect:
    return PURE


def _profile_rule(profile: Profile) -> _Rule:
    if profile == INERT:
        return _pure
    is_switched = any(touch.switches for touch in profile.touches)

    def rule(node: fx.Node) -> Effect:
        touches = list(profile.applying(node)) if is_switched else profile.touches
        writes = _operands([t.slot.argument(node) for t in touches if t.writes])
        aliases = _operands([t.slot.argument(node) for t in touches if t.aliases])
        if profile.gathers:
            aliases = tuple(node.all_input_nodes)
        draws = profile.is_random(node)
        effectful = profile.effectful or draws or bool(writes)
        if not aliases and not effectful:
            return PURE
        return Effect(writes, aliases, random=draws, effectful=effectful)

    return rule


def _operands(arguments: Iterable[Any]) -> tuple[fx.Node, ...]:
    """The nodes inside arguments of a call, each once."""
    found: dict[fx.Node, None] = {}
    for argument in arguments:
        if isinstance(argument, fx.Node):
            found[argument] = None
        elif argument is not None:
            fx.map_arg(argument, found.setdefault)
    return tuple(found)


def _attribute(node: fx.Node) -> Effect:
    name = node.args[1] if len(node.args) > 1 else None
    return PURE if name in METADATA_ATTRIBUTES else gather(node)


def _store(node: fx.Node) -> Effect:
    """`setitem`: a tensor copies the value, any other container keeps it."""
    container, *_, value = node.args
    held = [] if _is_tensor(container) else [container, value]
    writes, aliases = _operands([container]), _operands(held)
    return Effect(writes, aliases, effectful=True)


def _is_tensor(operand: Any) -> bool:
    return isinstance(operand, fx.Node) and (
        isinstance(operand.meta.get("val"), torch.Tensor)
        or hasattr(operand.meta.get("tensor_meta"), "memory_format")
    )


def _concatenating(rule: _Rule) -> _Rule:
    """The rule of a sum, whose result holds the operands when they are lists."""

    def either(node: fx.Node) -> Effect:
        effect = rule(node)
        if not any(isinstance(argument, list | tuple) for argument in node.args):
            return effect
        return attrs.evolve(effect, aliases=tuple(node.all_input_nodes))

    return either


def _learn(node: fx.Node) -> _Rule:
    """The rule of a function met for the first time, remembered if it is torch's."""
    target = node.target
    if runs_subgraphs(target):
        return _running
    if isinstance(target, OpOverload):
        profile: Profile | None = overload_profile(target)
    elif isinstance(target, OpOverloadPacket):
        profile = _packet_profile(target)
    elif isinstance(target, BuiltinFunctionType) and id(target) in _TORCH_FUNCTIONS:
        profile = _bound_profile(target.__name__)
    elif isinstance(target, FunctionType) and id(target) in _TORCH_FUNCTIONS:
        profile = functional_profile(target, _TORCH_FUNCTIONS[id(target)])
    else:
        return clobber
    if profile is None:
        return clobber
    rule = _profile_rule(_with_impurity(profile, node))
    _RULES[id(target)] = (target, rule)
    return rule


def _packet_profile(packet: OpOverloadPacket) -> Profile | None:
    if str(packet).startswith("aten."):
        return packet_profile(packet.__name__)
    overload = only_overload(packet)
    return None if overload is None else overload_profile(overload)


def _running(node: fx.Node) -> Effect:
    """A higher-order operator does what its graphs do to its operands."""
    subgraphs = subgraphs_of(node)
    if subgraphs is None:
        return clobber(node)
    effects = [_subgraph_effect(subgraph) for subgraph in subgraphs]
    if any(effect.clobbers for effect in effects):
        return clobber(node)
    return Effect(
        writes=tuple(dict.fromkeys(n for effect in effects for n in effect.writes)),
        aliases=tuple(dict.fromkeys(n for effect in effects for n in effect.aliases)),
        random=any(effect.random for effect in effects),
        effectful=any(effect.effectful for effect in effects),
    )


def _subgraph_effect(subgraph: Subgraph) -> Effect:
    """What running a graph does to the operands that it is given."""
    effects = {node: effect_of(node) for node in subgraph.nodes}
    written = _origins([n for e in effects.values() for n in e.writes], effects)
    returned = _origins(subgraph.nodes[-1].all_input_nodes, effects)
    owned = any(node.op == "get_attr" for node in (*written, *returned))
    return Effect(
        writes=tuple(subgraph.operands[n] for n in written if n in subgraph.operands),
        aliases=tuple(subgraph.operands[n] for n in returned if n in subgraph.operands),
        clobbers=owned or any(effect.clobbers for effect in effects.values()),
        random=any(effect.random for effect in effects.values()),
        effectful=any(effect.effectful for effect in effects.values()),
    )


def _origins(
    values: Iterable[fx.Node], effects: Mapping[fx.Node, Effect]
) -> list[fx.Node]:
    """The values, and those whose storage they may share by way of others."""
    found: dict[fx.Node, None] = {}
    todo = list(values)
    while todo:
        node = todo.pop()
        if node not in found:
            found[node] = None
            todo += effects[node].aliases
    return list(found)


def _with_impurity(profile: Profile, node: fx.Node) -> Profile:
    """The profile, effectful too if torch says so for a reason no schema gives."""
    if any(touch.writes for touch in profile.touches) or profile.draws:
        return profile
    if not node.is_impure(impure_random=False):
        return profile
    return attrs.evolve(profile, effectful=True)


def _bound_profile(name: str) -> Profile | None:
    """The profile of a Python binding of the operators `aten.<name>`."""
    profile = packet_profile(name)
    if profile is None:
        return None
    if name.endswith("_"):
        profile |= Profile((first_operand(writes=True, aliases=True),))
    # Not every operator takes `out`, but a call that passes it writes it.
    return profile | Profile((OUT,))


def _method_rule(name: str) -> _Rule:
    rule = _METHODS.get(name)
    if rule is None:
        rule = _METHODS.setdefault(name, _new_method_rule(name))
    return rule


def _new_method_rule(name: str) -> _Rule:
    if name in PURE_METHODS:
        return _pure
    if name in ALIASING_METHODS:
        return gather
    # A name that tensors lack belongs to an object nothing is known about.
    profile = _bound_profile(name) if hasattr(torch.Tensor, name) else None
    return clobber if profile is None else _profile_rule(profile)


_METHODS: Final[dict[str, _Rule]] = {}


def _torch_functions() -> dict[int, str]:
    """The names of torch's own functions, by address; they live as long as torch."""
    spaces = (
        torch,
        torch.functional,
        F,
        torch._C._nn,
        torch._C._fft,
        torch._C._linalg,
        torch._C._special,
    )
    return {
        id(function): name
        for space in spaces
        for name, function in vars(space).items()
        if isinstance(function, BuiltinFunctionType)
        or getattr(function, "__module__", None)
        in ("torch.functional", F.__name__, "torch._jit_internal")
    }


_TORCH_FUNCTIONS: Final = _torch_functions()


def _python_rules() -> dict[int, tuple[object, _Rule]]:
    """The rules of callables that have no schema."""
    reads_first = _profile_rule(Profile((first_operand(writes=False, aliases=True),)))
    writes_first = _profile_rule(Profile((first_operand(writes=True, aliases=False),)))
    updates = _profile_rule(Profile((first_operand(writes=True, aliases=True),)))
    effectful = _profile_rule(Profile(effectful=True))
    rules: dict[Any, _Rule] = {
        **dict.fromkeys(PURE_CALLABLES, _pure),
        **dict.fromkeys(GATHERING_CALLABLES, gather),
        **dict.fromkeys(IN_PLACE_OPERATORS, updates),
        operator.add: _concatenating(_pure),
        operator.iadd: _concatenating(updates),
        operator.getitem: reads_first,
        operator.pos: reads_first,
        operator.delitem: writes_first,
        operator.setitem: _store,
        getattr: _attribute,
        torch._assert: effectful,
    }
    return {id(function): (function, rule) for function, rule in rules.items()}


# By address, with the function itself, which keeps the address taken.
_RULES: Final[dict[int, tuple[object, _Rule]]] = _python_rules()
