"""The call targets of matcher and replacement graphs that are not operators.

They make the graphs readable when printed; what they mean is in the docstrings. Running
one is an error: a rule's `instances()` are the graphs that run.
"""

from __future__ import annotations

from typing import NoReturn


def _symbolic(name: str) -> NoReturn:
    raise TypeError(f"'{name}' is a pattern; run one of the rule's instances")


def anything() -> NoReturn:
    """`_`: any argument, an absent one included."""
    _symbolic("anything")


def either(*options: object) -> NoReturn:
    """`p | q`: the first option that fits; later ones are tried when the rest fails."""
    _symbolic("either")


def maybe(value: object) -> NoReturn:
    """`p?`: an operand that may be absent."""
    _symbolic("maybe")


def skippable(call: object) -> NoReturn:
    """`f?(a)`: the call, or its first operand alone."""
    _symbolic("skippable")


def chain(link: object, hole: object, inner: object, least: int) -> NoReturn:
    """`f^*(a)`: at least so many links, one in the hole of the other, above `inner`."""
    _symbolic("chain")


def hole() -> NoReturn:
    """Where a link of a chain takes the value of the next one."""
    _symbolic("hole")


def captured(name: str, value: object, hole: object) -> NoReturn:
    """`N@p`: what `value` matched, down to `hole`, can be emitted again."""
    _symbolic("captured")


def where(condition: str, *names: object) -> NoReturn:
    """A guard; the compiled condition is in the node's metadata."""
    _symbolic("where")


def computed(expression: str, *names: object) -> NoReturn:
    """A literal evaluated at match time."""
    _symbolic("computed")


def choose(condition: str, then: object, otherwise: object) -> NoReturn:
    """`a if c else b`, decided at match time."""
    _symbolic("choose")


def spread(values: object) -> NoReturn:
    """`*xs` in a list."""
    _symbolic("spread")


def reemit(capture: object, *operands: object) -> NoReturn:
    """`N(v)`: the captured calls again, on other operands."""
    _symbolic("reemit")


def param(value: object) -> NoReturn:
    """A new parameter, computed at rewrite time."""
    _symbolic("param")


def buffer(value: object) -> NoReturn:
    """A new buffer, computed at rewrite time."""
    _symbolic("buffer")


def write(state: object, value: object) -> NoReturn:
    """`w <- e`: a new tensor in the place of the one that `w` stands for."""
    _symbolic("write")


def own(state: object, value: object) -> NoReturn:
    """`own w <- e`: as `write`, but other readers keep the old tensor."""
    _symbolic("own")


def initial(state: object) -> NoReturn:
    """What a state was before any write of the run."""
    _symbolic("initial")


def value(value: object) -> NoReturn:
    """A constant computed at rewrite time and stored nowhere."""
    _symbolic("value")


CONSTANTS = frozenset({param, buffer, value})
WRITES = frozenset({write, own})
EVALUATED = CONSTANTS | WRITES
"""What a right side has evaluated, and does not put into the graph."""
