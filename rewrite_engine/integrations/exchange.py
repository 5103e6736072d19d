"""Functions of a foreign module, exchanged for the code of a block alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from threading import Lock
from types import MappingProxyType
from typing import Any

import attrs

Functions = Mapping[str, Callable[..., Any]]


@attrs.frozen(eq=False)
class Exchange:
    """Exchanges functions that the code of a module looks up by their names.

    While anyone is inside, dispatchers stand in the module. They call what the thread
    or task that calls them has exchanged, and the module's own function in all others.
    """

    module: str
    """Qualified name; imported on entry."""
    _active: ContextVar[Functions] = attrs.field(
        factory=lambda: ContextVar("_active", default=MappingProxyType({}))
    )
    _lock: Any = attrs.field(factory=Lock)
    _installed: list[_Dispatcher] = attrs.field(factory=list)
    _inside: list[object] = attrs.field(factory=list)

    @contextmanager
    def inside(self, **functions: Callable[..., Any]) -> Iterator[None]:
        """Exchange functions for the code inside; nested blocks see the innermost.

        Raises: RuntimeError if the module has no such functions.
        """
        self._enter(functions)
        token = self._active.set(functions)
        try:
            yield
        finally:
            self._active.reset(token)
            self._leave()

    def _enter(self, names: Iterable[str]) -> None:
        with self._lock:
            if not self._inside:
                self._install(names)
            self._inside.append(None)

    def _leave(self) -> None:
        with self._lock:
            self._inside.pop()
            if not self._inside:
                self._remove()

    def _install(self, names: Iterable[str]) -> None:
        module = import_module(self.module)
        missing = [name for name in names if not callable(getattr(module, name, None))]
        if missing:
            raise RuntimeError(f"{self.module} has no {', '.join(missing)}")
        for name in names:
            dispatcher = _Dispatcher(name, getattr(module, name), self._active)
            self._installed.append(dispatcher)
            setattr(module, name, dispatcher)

    def _remove(self) -> None:
        module = import_module(self.module)
        while self._installed:
            dispatcher = self._installed.pop()
            # What somebody else has put there since then is not ours to remove.
            if getattr(module, dispatcher.name) is dispatcher:
                setattr(module, dispatcher.name, dispatcher.original)


@attrs.frozen(eq=False)
class _Dispatcher:
    """Stands in for one function of the module."""

    name: str
    original: Callable[..., Any]
    active: ContextVar[Functions]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.active.get().get(self.name, self.original)(*args, **kwargs)
