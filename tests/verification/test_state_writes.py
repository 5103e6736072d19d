"""Rules that write the state are held to what they claim, too."""

from __future__ import annotations

from rewrite_engine import engine, loads

RULES = """
rule right once {
  y = linear(x, w)
  where x: f64[$B, $I], w: f64[$O, $I]
=>
  w <- w / 2
  y' = linear(x * 2, w, ..y)
}

rule wrong once {
  y = linear(x, w)
  where x: f64[$B, $I], w: f64[$O, $I]
=>
  w <- w * 2
  keep y
}
"""


def test_writes_are_verified() -> None:
    found = str(engine.verify(loads(RULES)))
    assert "the two sides of `wrong` differ" in found
    assert "the two sides of `right` differ" not in found
