"""The printer: `parse(print(x)) == x`, and formatting keeps what a reader wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.expression_builder import RESERVED
from rewrite_engine.dsl.expression_text import print_expr
from rewrite_engine.dsl.parser import parse
from rewrite_engine.dsl.printer import format_source, print_file
from rewrite_engine.errors import RuleError
from rewrite_engine.source import Source

CASES = Path(__file__).parents[1] / "cases" / "accept"
ACCEPTED = [*sorted(CASES.glob("*.rules")), *sorted(rules_directory().glob("*.rules"))]


def parsed(text: str) -> nodes.File:
    return parse(Source("test.rules", text))


def formatted(text: str) -> str:
    return format_source(Source("test.rules", text))


def comment_texts(file: nodes.File) -> list[str]:
    return sorted(comment.text for comment in file.comments)


# --- whole files ---


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_printing_keeps_the_meaning(path: Path) -> None:
    file = parsed(path.read_text(encoding="utf-8"))
    assert parsed(print_file(file)) == file


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_formatting_keeps_meaning_and_comments(path: Path) -> None:
    before = parsed(path.read_text(encoding="utf-8"))
    after = parsed(formatted(path.read_text(encoding="utf-8")))
    assert after == before
    assert comment_texts(after) == comment_texts(before)


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_formatting_twice_changes_nothing(path: Path) -> None:
    once = formatted(path.read_text(encoding="utf-8"))
    assert formatted(once) == once


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_lines_break_at_the_width(path: Path) -> None:
    lines = print_file(parsed(path.read_text(encoding="utf-8"))).splitlines()
    code = [line for line in lines if not line.startswith(("##", "rule "))]
    assert all(len(line) <= 88 for line in code)


def test_a_comment_survives_wherever_it_stands() -> None:
    lines = (CASES / "every_form.rules").read_text(encoding="utf-8").splitlines()
    places = [i for i, line in enumerate(lines) if not line.startswith("##")]
    for place in places[::2]:
        changed = [*lines[:place], f"{lines[place]}  # added", "# alone"]
        once = formatted("\n".join(changed + lines[place + 1 :]))
        assert {"# added", "# alone"} <= set(comment_texts(parsed(once)))
        assert formatted(once) == once


def test_every_gap_between_words_takes_a_comment() -> None:
    text = (CASES / "qat_fuse.rules").read_text(encoding="utf-8")
    code = [line.split("#")[0] for line in text.splitlines()]
    words = " ".join(code).split()
    expected = parsed(" ".join(words))
    for start in range(3):
        parts = [
            f"{word} # note\n" if index % 3 == start else word
            for index, word in enumerate(words)
        ]
        once = formatted(" ".join(parts))
        assert parsed(once) == expected
        assert once.count("# note") == " ".join(parts).count("# note")
        assert formatted(once) == once


# --- layout ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("\n\n# only\n\n\n# comments\n", "# only\n\n# comments\n"),
        ("op a=b\nop c=d", "op a = b\nop c = d\n"),
        ("op a=b\n\n\n\nop c=d", "op a = b\n\nop c = d\n"),
        ("op a=b\npattern p()=x", "op a = b\n\npattern p() = x\n"),
        (
            "rule r once{y=f(x)\n\n=>\n\ny'=x\n\n}",
            "rule r once {\n  y = f(x)\n=>\n  y' = x\n}\n",
        ),
        (
            "rule r { y=f(x)\n\n\n where a==1 =>y'=x }",
            "rule r {\n  y = f(x)\n\n  where a == 1\n=>\n  y' = x\n}\n",
        ),
        ("## Doc.\n##more\nop a=b", "## Doc.\n## more\nop a = b\n"),
        ("pattern p() = x # a", "pattern p() = x  # a\n"),
        ("pattern p() = # a\n x # b", "# a\npattern p() = x  # b\n"),
        ("pattern p() = f(\n ## a\n x)", "# a\npattern p() = f(x)\n"),
    ],
)
def test_layout(text: str, expected: str) -> None:
    assert formatted(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a+b)*c", "(a + b) * c"),
        ("a-(b-c)", "a - (b - c)"),
        ("(a*b)+c", "a * b + c"),
        ("-(a+b)", "-(a + b)"),
        ("a - -1", "a - -1"),
        ("(-1)?", "(-1)?"),
        ("N@(a|b)", "N@(a | b)"),
        ("(a?)?", "(a?)?"),
        ("f(a|b)", "f(a | b)"),
        ("f(k = 1, .. )", "f(k=1, ..)"),
        ("(a if b else c) if d else e", "(a if b else c) if d else e"),
        ("a if b else (c if d else e)", "a if b else c if d else e"),
        ("(a or b) and not (c and d)", "(a or b) and not (c and d)"),
        ("(a < b) == c", "(a < b) == c"),
        ("v ~ (a | b)", "v ~ a | b"),
        ("x : f16 | bf16 [ $B , * S ]", "x: f16|bf16[$B, *S]"),
        ("0.0001", "1e-4"),
        ("0.5", "0.5"),
        ("1e-05", "1e-5"),
        ("1e+30", "1e30"),
        ("100000.0", "100000.0"),
        ("0.00123", "0.00123"),
        ('"a\\"\\\\\\n\\t"', '"a\\"\\\\\\n\\t"'),
    ],
)
def test_expression_on_one_line(text: str, expected: str) -> None:
    (pattern,) = parsed(f"pattern p() = {text}").items
    assert isinstance(pattern, nodes.PatternDef)
    assert print_expr(pattern.value) == expected


def test_a_wrong_file_is_not_formatted() -> None:
    with pytest.raises(RuleError):
        formatted("op a = = b")


@pytest.mark.parametrize(
    "text",
    [
        "f(" * 60 + "x" + ")" * 60,
        "f(k=" * 60 + "x" + ")" * 60,
        "[a | N@f(" * 30 + "x" + ")]" * 30,
        "(a if b else " * 60 + "x" + ")" * 60,
        "x" + " + x" * 150,
        "not " * 150 + "x",
    ],
)
def test_deep_expressions_are_printed(text: str) -> None:
    file = parsed(f"pattern p() = {text}")
    assert parsed(print_file(file)) == file


# --- programs drawn at random ---

SOFT = "value rule op test use family once in for const when given expect exact equal"
WORDS = st.from_regex(r"[a-zA-Z][a-z0-9_]{0,12}", fullmatch=True).filter(
    lambda word: word not in RESERVED
) | st.sampled_from(SOFT.split())
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: "\0" not in text and "\ufeff" not in text
)
DOCS = st.lists(st.sampled_from(["One.", "", "  two", "# three"]), max_size=3).map(
    lambda lines: "\n".join(lines) if any(lines) else ""
)
INTEGERS = st.integers(0, 2**63 - 1)
TOLERANCES = st.floats(1e-12, 10.0) | st.just(0.0)
NAMES = st.builds(nodes.Name, WORDS)
LITERALS = st.builds(nodes.LiteralName, WORDS)
STARS = st.builds(nodes.Star, WORDS)
WILDCARDS = st.builds(nodes.Wildcard)
CONSTANTS = st.builds(
    nodes.Constant,
    st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from([True, False, None]),
)
CALLEES = st.builds(
    nodes.Name,
    WORDS
    | st.lists(WORDS, min_size=2, max_size=3).map(".".join)
    | WORDS.map(lambda word: f".{word}"),
)
TYPES = st.builds(
    nodes.TensorType,
    st.lists(WORDS, min_size=1, max_size=2).map(tuple),
    st.none()
    | st.lists(
        INTEGERS.map(nodes.Constant) | LITERALS | WILDCARDS | STARS, max_size=3
    ).map(tuple),
)


def tuples(
    values: st.SearchStrategy[Any], least: int = 0, most: int = 3
) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=least, max_size=most).map(tuple)


def is_plain_number(value: nodes.Expr) -> bool:
    """`-1` is one constant, so that a negated `1` cannot be written."""
    return isinstance(value, nodes.Constant) and (
        isinstance(value.value, int | float)
        and not isinstance(value.value, bool)
        and not repr(value.value).startswith("-")
    )


def extended(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    calls = st.builds(
        nodes.Call,
        CALLEES,
        tuples(inner | STARS),
        tuples(st.builds(nodes.Keyword, WORDS, inner), most=2),
        st.none() | st.builds(nodes.Rest, st.none() | WORDS),
    )
    marked = st.sampled_from([{"optional": True}, {"chain": "+"}, {"chain": "*"}])
    unions = st.lists(
        inner.filter(lambda e: not isinstance(e, nodes.Alternatives)),
        min_size=2,
        max_size=3,
    ).map(lambda options: nodes.Alternatives(tuple(options)))
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    comparators = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        calls,
        st.builds(lambda call, mark: attrs.evolve(call, **mark), calls, marked),
        st.builds(nodes.ListExpr, tuples(inner | STARS)),
        st.builds(nodes.Capture, WORDS, inner),
        st.builds(nodes.Optional, inner),
        unions,
        st.builds(nodes.Infix, operators, inner, inner),
        st.builds(nodes.Negate, inner.filter(lambda e: not is_plain_number(e))),
        st.builds(nodes.Compare, comparators, inner, inner),
        st.builds(nodes.IfElse, inner, inner, inner),
        st.builds(nodes.Not, inner),
        st.builds(nodes.And, inner, inner),
        st.builds(nodes.Or, inner, inner),
        st.builds(nodes.Matches, WORDS, inner, st.booleans()),
    )


LEAVES = st.one_of(
    NAMES,
    LITERALS,
    CONSTANTS,
    WILDCARDS,
    st.builds(nodes.StateRead, WORDS.filter(lambda word: word != "torch"), WORDS),
    WORDS.map(lambda word: nodes.Name(f"{word}'")),
    st.builds(nodes.HasType, WORDS, TYPES),
    st.builds(nodes.IsConst, WORDS),
)
EXPRESSIONS = st.recursive(LEAVES, extended, max_leaves=8)
GUARDS = EXPRESSIONS.filter(lambda e: not isinstance(e, nodes.IfElse))
PARAMETERS = tuples(NAMES | LITERALS, least=1)

BINDS = st.builds(nodes.Bind, WORDS, EXPRESSIONS)
LEFT = tuples(
    BINDS | st.builds(nodes.Where, tuples(GUARDS, least=1), st.none() | TEXTS), least=1
)
RIGHT = tuples(
    st.one_of(
        BINDS,
        st.builds(nodes.Replace, WORDS, EXPRESSIONS),
        st.builds(
            nodes.Constructed,
            st.sampled_from(["param", "buffer", "value"]),
            WORDS,
            EXPRESSIONS,
        ),
        st.builds(nodes.Assign, WORDS, EXPRESSIONS, st.booleans()),
        st.builds(nodes.Meta, tuples(WORDS, least=1), WORDS, tuples(WORDS)),
        st.builds(nodes.Keep, tuples(WORDS, least=1)),
        st.builds(nodes.Erase, tuples(WORDS, least=1)),
    )
)
RULES = st.builds(
    nodes.RuleDef,
    WORDS,
    LEFT,
    RIGHT,
    family=st.none() | st.builds(nodes.ForFamily, PARAMETERS, WORDS),
    strategy=st.sampled_from([None, "once", "fixpoint"]),
    benefit=st.none() | INTEGERS,
    precision=st.none() | st.builds(nodes.Precision, st.none() | TOLERANCES),
    doc=DOCS,
)
TESTS = st.builds(
    nodes.TestDef,
    TEXTS,
    tuples(
        st.builds(
            nodes.Given, WORDS, TYPES, st.sampled_from(["input", "param", "buffer"])
        )
    ),
    tuples(BINDS),
    tuples(EXPRESSIONS, least=1),
    tuples(
        st.builds(
            nodes.ExpectCount, WORDS.filter(lambda word: word != "equal"), INTEGERS
        )
        | st.builds(nodes.ExpectEqual, st.none() | TOLERANCES)
        | st.builds(nodes.ExpectRefusal, WORDS, TEXTS),
        least=1,
    ),
    doc=DOCS,
)
ITEMS = st.one_of(
    st.builds(nodes.Use, TEXTS, tuples(WORDS)),
    st.builds(nodes.UseHooks, WORDS, tuples(WORDS, least=1)),
    st.builds(
        nodes.OpDef,
        WORDS,
        tuples(CALLEES, least=1, most=6),
        tuples(INTEGERS, most=2),
        st.none() | GUARDS,
        DOCS,
    ),
    st.builds(
        nodes.FamilyDef,
        WORDS,
        PARAMETERS,
        tuples(
            st.builds(
                nodes.Row,
                st.builds(lambda op, rest: (op, *rest), CALLEES, tuples(CONSTANTS)),
            ),
            least=1,
        ),
        DOCS,
    ),
    st.builds(nodes.PatternDef, WORDS, tuples(NAMES | LITERALS), EXPRESSIONS, DOCS),
    RULES,
    st.builds(
        nodes.PipelineDef,
        WORDS,
        tuples(
            st.builds(
                nodes.Phase,
                st.sampled_from(["once", "fixpoint"]),
                tuples(WORDS | WORDS.map(lambda word: f"{word}.*"), least=1),
            ),
            least=1,
        ),
        DOCS,
    ),
    TESTS,
)
FILES = st.builds(nodes.File, tuples(ITEMS))
QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@QUICK
@given(FILES)
def test_parse_inverts_print(file: nodes.File) -> None:
    text = print_file(file)
    assert parsed(text) == file
    assert formatted(text) == text


@QUICK
@given(EXPRESSIONS)
def test_an_expression_prints_on_one_line(expr: nodes.Expr) -> None:
    text = print_expr(expr)
    (pattern,) = parsed(f"pattern p() = {text}").items
    assert isinstance(pattern, nodes.PatternDef)
    assert pattern.value == expr
    assert "\n" not in text
