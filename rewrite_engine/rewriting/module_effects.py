"""What calls of modules do: torch's own classes are known, others may do anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import fx, nn

from rewrite_engine.module_forms import is_customized
from rewrite_engine.rewriting.effect import PURE, Effect, clobber, gather, owned_module
from rewrite_engine.rewriting.known_effects import (
    CHANNEL_OBSERVERS,
    DROPOUT_CARRIERS,
    DROPOUTS,
    EQUALIZATION_OBSERVERS,
    FAKE_QUANTIZERS,
    FORWARDING_MODULES,
    FUSED_SEQUENCES,
    MEMORYLESS_MODULES,
    NORMALIZATIONS,
    SAMPLING_MODULES,
    WATCHING_OBSERVERS,
)

_ModuleRule = Callable[[fx.Node, Any], Effect]


def module_effect(node: fx.Node, module: nn.Module | None) -> Effect:
    """The effect of a `call_module` node of a graph whose modules are `module`'s."""
    called = owned_module(node, module)
    if called is None:
        return clobber(node)
    if _is_input_guard(called):
        return PURE
    # Exact classes only: a subclass or a parametrized module runs other code.
    rule = _MODULES.get(type(called)) or _quantization_rule(type(called))
    if rule is None or is_customized(called):
        return clobber(node)
    return rule(node, called)


def _quantization_rule(kind: type) -> _ModuleRule | None:
    """The rule of a class of torch.ao, which is not imported for it."""
    if kind.__module__ == _OBSERVERS and kind.__name__ in WATCHING_OBSERVERS:
        return _watching
    if kind.__module__ == _FAKE_QUANTIZE and kind.__name__ in FAKE_QUANTIZERS:
        return _watching
    if kind.__module__ == _EQUALIZATION and kind.__name__ in EQUALIZATION_OBSERVERS:
        return _watching
    if kind.__module__ == _CHANNELS and kind.__name__ in CHANNEL_OBSERVERS:
        return _watching
    if kind.__module__ == _FUSED and kind.__name__ in FUSED_SEQUENCES:
        return _sequential
    return None


_OBSERVERS: Final = "torch.ao.quantization.observer"
_FAKE_QUANTIZE: Final = "torch.ao.quantization.fake_quantize"
_EQUALIZATION: Final = "torch.ao.quantization.fx._equalize"
_CHANNELS: Final = "rewrite_engine.equalize.observers"
_FUSED: Final = "torch.ao.nn.intrinsic.modules.fused"


def _is_input_guard(called: nn.Module) -> bool:
    """Whether this is the check of input shapes that torch.export puts in front."""
    kind = type(called)
    return kind.__name__ == "GuardsFn" and kind.__module__.startswith("torch.export.")


def _memoryless(node: fx.Node, called: nn.Module) -> Effect:
    if getattr(called, "max_norm", None) is not None:
        return Effect(own_state=True, effectful=True)
    if not getattr(called, "inplace", False):
        return PURE
    inputs = tuple(node.all_input_nodes)
    return Effect(writes=inputs, aliases=inputs, effectful=True)


def _normalizing(node: fx.Node, called: Any) -> Effect:
    updates = called.training or not called.track_running_stats
    if called.running_mean is None or not updates:
        return PURE
    return Effect(own_state=True, effectful=True)


def _dropping(node: fx.Node, called: Any) -> Effect:
    inputs = tuple(node.all_input_nodes)
    writes = inputs if called.inplace else ()
    random = called.training
    return Effect(writes, inputs, random=random, effectful=bool(writes) or random)


def _carrying(node: fx.Node, called: Any) -> Effect:
    random = called.training and called.dropout > 0
    return Effect(aliases=tuple(node.all_input_nodes), random=random, effectful=random)


def _watching(node: fx.Node, called: nn.Module) -> Effect:
    """Returns its operand, and takes note of it."""
    inputs = tuple(node.all_input_nodes)
    return Effect(aliases=inputs, own_state=True, effectful=True)


def _sequential(node: fx.Node, called: nn.Module) -> Effect:
    """Layers that hand their own results on: nothing outside sees a write in them."""
    norms = []
    for part in called.children():
        if is_customized(part):
            return clobber(node)
        if type(part) in NORMALIZATIONS:
            norms.append(_normalizing(node, part))
        elif type(part) not in MEMORYLESS_MODULES:
            return clobber(node)
    return next((effect for effect in norms if effect is not PURE), PURE)


def _forwarding(node: fx.Node, called: nn.Module) -> Effect:
    return gather(node)


def _sampling(node: fx.Node, called: nn.Module) -> Effect:
    return Effect(random=True, effectful=True)


_MODULES: Final[dict[type, _ModuleRule]] = {
    **dict.fromkeys(MEMORYLESS_MODULES, _memoryless),
    **dict.fromkeys(NORMALIZATIONS, _normalizing),
    **dict.fromkeys(DROPOUTS, _dropping),
    **dict.fromkeys(DROPOUT_CARRIERS, _carrying),
    **dict.fromkeys(FORWARDING_MODULES, _forwarding),
    **dict.fromkeys(SAMPLING_MODULES, _sampling),
}
