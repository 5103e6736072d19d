"""Recorded values of new nodes: fake tensors in the fake mode of their graph.

A graph that went through `torch.export`, ATen tracing or dynamo records the value of
every node as a fake tensor in `node.meta`. Passes, verifiers and serialisers rely on
it, so a new node gets one too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata

from rewrite_engine.rewriting.calls import (
    Call,
    call_of,
    elementwise_result,
    identity,
    known_elementwise,
    may_alias,
    remember_dtype,
    reshape_result,
)
from rewrite_engine.rewriting.fake_runs import ValueInferenceError, run
from rewrite_engine.rewriting.fake_tensors import FakeTensors
from rewrite_engine.tensor_types import (
    UNKNOWN,
    VALUE_KEYS,
    TensorType,
    attribute,
    is_dense,
    is_static,
    mismatch,
    recorded,
    type_of,
)


class _Result(NamedTuple):
    """What a call makes: new memory of a type, or a view of its first operand."""

    type: TensorType
    is_view: bool = False


class Derivation(NamedTuple):
    """How the value of a call was derived, so that equal calls need no thought."""

    result: _Result | None
    """None if the value is that of the call which it copies."""
    tensor_meta: TensorMetadata | None


_NOTHING_STAGED: Final[Mapping[str, Any]] = MappingProxyType({})


class ValueTypes:
    """Derives the recorded values of the new nodes of one graph.

    Attributes that `module` does not have yet are looked up in `staged`, by their
    qualified name, whenever they are needed. If the graph records no values, none are
    derived.
    """

    def __init__(
        self, module: fx.GraphModule, staged: Mapping[str, Any] = _NOTHING_STAGED
    ) -> None:
        self._module = module
        self._staged = staged
        self._results: dict[Call, _Result] = {}
        # By id, with the value, so that the id stays taken.
        self._identities: dict[int, tuple[Any, Hashable]] = {}

    # Looked for when a value is wanted: where none is recorded, that takes a walk.

    @cached_property
    def _recording(self) -> tuple[str, FakeTensorMode | None, bool]:
        return _convention(self._module.graph)

    @property
    def _key(self) -> str:
        return self._recording[0]

    @property
    def _mode(self) -> FakeTensorMode | None:
        return self._recording[1]

    @property
    def _has_tensor_meta(self) -> bool:
        return self._recording[2]

    @property
    def records(self) -> bool:
        """Whether the graph records values."""
        return self._mode is not None

    @cached_property
    def _fakes(self) -> FakeTensors | None:
        return None if self._mode is None else FakeTensors(self._mode)

    @property
    def convention(self) -> Hashable:
        """What the records of equal calls depend on, beside their operands."""
        return self._key, self.records, self._has_tensor_meta, torch.get_default_dtype()

    def infer(self, node: fx.Node, *, like: fx.Node | None = None) -> None:
        """Records the value of a new node; nothing, if an operand's is not recorded.

        The value of `like` is taken over if `node` is the same call, up to operands
        of the same types. Raises ValueInferenceError if the call is wrong for its
        operands, or would need a dynamic size to be specialised.
        """
        if self._mode is None or node.op in ("placeholder", "output"):
            return
        value = self._derived(node, like)
        if value is UNKNOWN:
            return
        node.meta[self._key] = value
        if self._has_tensor_meta and isinstance(value, torch.Tensor):
            needs_grad = _requires_grad(node, value)
            node.meta["tensor_meta"] = self._tensor_meta(value, needs_grad)

    def derivation(self, node: fx.Node, like: fx.Node | None) -> Derivation | None:
        """How the value that `infer` recorded follows from the types of the operands.

        None if it has to be run again for every call.
        """
        value, tensor_meta = node.meta.get(self._key), node.meta.get("tensor_meta")
        if value is None or node.op != "call_function":
            return None
        if like is not None and value is like.meta.get(self._key):
            return Derivation(None, tensor_meta)
        result = self._results.get(call_of(node, self._operand))
        return None if result is None else Derivation(result, tensor_meta)

    def infer_again(
        self, node: fx.Node, derivation: Derivation, like: fx.Node | None
    ) -> None:
        """Records the value of a new node, derived as that of an equal call was."""
        result, tensor_meta = derivation
        meta = node.meta
        if result is not None:
            value = meta[self._key] = self._made(node, result)
            self._identities[id(value)] = value, result.type
        else:
            assert like is not None, "a value is taken over from the copied call"
            meta[self._key] = like.meta[self._key]
        if tensor_meta is not None:
            meta["tensor_meta"] = TensorMetadata._make((*tensor_meta[:-1], {}))

    def record_constant(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """Records the value of the node of a new constant; nothing if none are."""
        value = self.of_tensor(tensor)
        # Export gives every lifted constant an entry.
        if value is not None or node.op == "placeholder":
            node.meta[self._key] = value
        if value is not None and self._has_tensor_meta:
            metadata = self._tensor_meta(value, tensor.requires_grad)
            node.meta["tensor_meta"] = metadata

    def identity_of(self, node: fx.Node) -> Hashable:
        """What results depend on in the recorded value of a node; None without one."""
        value = recorded(node)
        return None if value is UNKNOWN else self._identity(value)

    def of_tensor(self, tensor: torch.Tensor) -> FakeTensor | None:
        """The value to record for a constant; None if the graph records none."""
        if self._mode is None or self._fakes is None:
            return None
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return self._mode.from_tensor(tensor, static_shapes=True)
        kind = type_of(tensor)
        if kind is None or tensor.layout is not torch.strided or tensor.is_quantized:
            return self._mode.from_tensor(tensor, static_shapes=True)
        return self._fakes.fresh(kind).requires_grad_(tensor.requires_grad)

    def _derived(self, node: fx.Node, like: fx.Node | None) -> Any:
        if node.op == "get_attr":
            return self._value(node)
        if not all(map(self._is_recorded, node.all_input_nodes)):
            return UNKNOWN
        call = call_of(node, self._operand)
        if like is not None and self._equals(call, like):
            return like.meta[self._key]
        try:
            return self._computed(node, call)
        except ValueInferenceError:
            if like is None or not self._agree(node, like):
                raise
            return like.meta[self._key]

    def _agree(self, node: fx.Node, like: fx.Node) -> bool:
        """Whether a call gives what the call it repeats gave, as far as sizes say.

        A kernel may be chosen by a dynamic size, for instance that of a convolution by
        its batch: that needs a guard, which the captured call has had, too.
        """
        if node.target != like.target or may_alias(node.target):
            return False
        if self._mode is None or self._mode.shape_env is None:
            return False
        try:
            value = self._run(node, self._mode.shape_env.suppress_guards())
        except ValueInferenceError:
            return False
        return mismatch(recorded(like), value) is None

    def _equals(self, call: Call, like: fx.Node) -> bool:
        """Whether `like` is the same call; views of other memory never are."""
        if self._key not in like.meta or may_alias(call.target):
            return False
        return call == call_of(like, self._operand)

    def _computed(self, node: fx.Node, call: Call) -> Any:
        known = self._results.get(call) or _foreseen(call)
        if known is None:
            value = self._run(node)
            self._learn(call, value)
            return value
        self._results[call] = known
        value = self._made(node, known)
        self._identities[id(value)] = value, known.type
        return value

    def _made(self, node: fx.Node, result: _Result) -> FakeTensor:
        assert self._fakes is not None, "without a mode, nothing is derived"
        if result.is_view:
            return self._fakes.view(self._value(node.args[0]), result.type)
        return self._fakes.fresh(result.type)

    def _learn(self, call: Call, value: object) -> None:
        """Remembers a result for equal calls, and for other sizes if elementwise."""
        if not _is_reproducible(call.target, value):
            return
        result = type_of(value)
        assert result is not None
        self._results[call] = _Result(result)
        if elementwise_result(call, result.dtype) == result:
            remember_dtype(call, result.dtype)

    def _run(
        self, node: fx.Node, sizes: AbstractContextManager[None] | None = None
    ) -> Any:
        assert self._mode is not None, "without a mode, nothing is derived"
        return run(node, self._value, self._mode, sizes)

    def _tensor_meta(self, value: torch.Tensor, requires_grad: bool) -> TensorMetadata:
        kind = self._identity(value)
        if value.is_quantized or not is_dense(kind):
            return _extract_tensor_metadata(value)._replace(requires_grad=requires_grad)
        return TensorMetadata(
            value.shape,
            kind.dtype,
            requires_grad,
            kind.stride,
            memory_format=torch.contiguous_format,
            is_quantized=False,
            qparams={},
        )

    def _operand(self, node: fx.Node) -> Any:
        return self._identity(self._value(node))

    def _identity(self, value: Any) -> Any:
        known = self._identities.get(id(value))
        if known is None:
            known = self._identities[id(value)] = value, identity(value)
        return known[1]

    def _is_recorded(self, node: fx.Node) -> bool:
        return self._key in node.meta or self._value(node) is not UNKNOWN

    def _value(self, node: fx.Node) -> Any:
        if self._key in node.meta:
            return node.meta[self._key]
        if node.op != "get_attr":
            return UNKNOWN
        value = self._staged.get(node.target, UNKNOWN)
        if value is UNKNOWN:
            value = attribute(self._module, node.target)
        return self.of_tensor(value) if isinstance(value, torch.Tensor) else UNKNOWN


def _foreseen(call: Call) -> _Result | None:
    """The result of a call that need not be run."""
    kind = known_elementwise(call)
    if kind is not None:
        return _Result(kind)
    kind = reshape_result(call)
    return None if kind is None else _Result(kind, is_view=True)


def _convention(graph: fx.Graph) -> tuple[str, FakeTensorMode | None, bool]:
    """Under which key the graph records values, their mode, whether `tensor_meta`."""
    for node in graph.nodes:
        meta = node.meta
        for key in VALUE_KEYS if meta else ():
            value = meta.get(key)
            if isinstance(value, FakeTensor):
                return key, value.fake_mode, "tensor_meta" in meta
    return VALUE_KEYS[0], None, False


def _is_reproducible(target: Any, value: object) -> bool:
    """Whether a fresh tensor of the same type is as good as this result."""
    return (
        isinstance(target, torch._ops.OpOverload)
        and not may_alias(target)
        and isinstance(value, FakeTensor)
        and value.layout is torch.strided
        and value.constant is None
        and value.storage_offset() == 0
        and is_static((*value.shape, *value.stride()))
    )


def _requires_grad(node: fx.Node, value: torch.Tensor) -> bool:
    """Whether the value does in the model; values are derived without autograd."""
    if not (value.dtype.is_floating_point or value.dtype.is_complex):
        return False
    if value.requires_grad:
        return True
    for operand in node.all_input_nodes:
        if getattr(operand.meta.get("tensor_meta"), "requires_grad", False):
            return True
    return False
