"""The parser: every form of the language, and every way to get it wrong."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lark import Lark

from rewrite_engine.assets import grammar_directory, grammar_text, rules_directory
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.expression_builder import RESERVED
from rewrite_engine.dsl.nodes import (
    Alternatives,
    Bind,
    Call,
    Capture,
    Compare,
    Constant,
    IfElse,
    Infix,
    LiteralName,
    Name,
    Negate,
    OpDef,
    Optional,
    Rest,
    Star,
    StateRead,
)
from rewrite_engine.dsl.parser import MAX_DEPTH, MAX_SYNTAX_ERRORS, parse, read
from rewrite_engine.dsl.walk import walk
from rewrite_engine.errors import Diagnostic, RuleError
from rewrite_engine.source import Source

CASES = Path(__file__).parents[1] / "cases" / "accept"
ACCEPTED = [*sorted(CASES.glob("*.rules")), *sorted(rules_directory().glob("*.rules"))]


def parsed(text: str) -> nodes.File:
    return parse(Source("test.rules", text))


def item(text: str) -> nodes.Item:
    (only,) = parsed(text).items
    return only


def rule(body: str, header: str = "") -> nodes.RuleDef:
    found = item(f"rule r {header} {{ {body} }}")
    assert isinstance(found, nodes.RuleDef)
    return found


def expr(text: str) -> nodes.Expr:
    found = item(f"pattern p() = {text}")
    assert isinstance(found, nodes.PatternDef)
    return found.value


def guard(text: str) -> nodes.Expr:
    where = rule(f"y = f(x) where {text} => y' = x").left[1]
    assert isinstance(where, nodes.Where)
    return where.guards[0]


def faults(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(RuleError) as caught:
        parsed(text)
    return caught.value.diagnostics


def codes(text: str) -> list[str]:
    return [fault.code for fault in faults(text)]


def pointed_at(text: str) -> list[str]:
    return [text[fault.span.start : fault.span.end] for fault in faults(text)]


# --- the grammar ---


def test_the_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="lark"):
        Lark(grammar_text(), parser="lalr", lexer="contextual", debug=True)
    assert not [r for r in caplog.records if "onflict" in r.getMessage()]


def test_the_grammar_is_short() -> None:
    assert len(grammar_text().splitlines()) <= 150


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_a_rule_file_is_accepted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(parsed(text).items) >= text.count("\nrule ")


def test_the_reference_shows_what_parses() -> None:
    text = (grammar_directory() / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    # Code in other languages is marked with its language.
    examples = [code for language, code in blocks if not language]
    table = text.split("## Items")[1].split("\n\n")[1]
    items = re.findall(r"^\|[^|]*\| (`.*`) \|$", table.replace("\\|", "\0"), re.M)
    shown = [part for row in items for part in re.findall("`([^`]*)`", row)]
    assert len(parsed(examples[0]).items) == 3
    assert all(parsed(example).items for example in examples)
    assert len(shown) == 10
    for form in shown:
        form = form.replace("\0", "|").replace("left => right", "y = x => y' = x")
        assert len(parsed(form).items) == 1


def test_the_reference_names_the_reserved_words() -> None:
    text = (grammar_directory() / "README.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"These words name nothing: `([^`]*)`", text)
    assert {*words.split(), "None", "True", "False"} == RESERVED


# --- expressions ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", Name("x")),
        ("$k", LiteralName("k")),
        ("_", nodes.Wildcard()),
        ("1", Constant(1)),
        ("1.0", Constant(1.0)),
        ("-1", Constant(-1)),
        ("--1", Negate(Constant(-1))),
        ("-x", Negate(Name("x"))),
        ("1e-5", Constant(1e-5)),
        ("9223372036854775807", Constant(2**63 - 1)),
        ('"a\\n\\t\\"\\\\"', Constant('a\n\t"\\')),
        ("true", Constant(True)),
        ("none", Constant(None)),
        ("bn.eps", StateRead("bn", "eps")),
        ("torch.float32", Name("torch.float32")),
        ("a.b.c", Name("a.b.c")),
        ("y'", Name("y'")),
        ("[a, *xs]", nodes.ListExpr((Name("a"), Star("xs")))),
        ("x?", Optional(Name("x"))),
        ("f?(x)", Call(Name("f"), (Name("x"),), optional=True)),
        ("f? (x)?", Optional(Call(Name("f"), (Name("x"),), optional=True))),
        ("f^+(x)", Call(Name("f"), (Name("x"),), chain="+")),
        ("f^*(x)", Call(Name("f"), (Name("x"),), chain="*")),
        (".relu(x)", Call(Name(".relu"), (Name("x"),))),
        ("aten.add.Tensor(x)", Call(Name("aten.add.Tensor"), (Name("x"),))),
        ("where(x)", Call(Name("where"), (Name("x"),))),
        ("f(..)", Call(Name("f"), rest=Rest())),
        ("f(x, ..y)", Call(Name("f"), (Name("x"),), rest=Rest("y"))),
        ("f(x,)", Call(Name("f"), (Name("x"),))),
        ("N@f(x)?", Optional(Capture("N", Call(Name("f"), (Name("x"),))))),
        ("N@(x?)", Capture("N", Optional(Name("x")))),
        ("a | (b | c)", Alternatives((Name("a"), Name("b"), Name("c")))),
        ("a - b - 1", Infix("-", Infix("-", Name("a"), Name("b")), Constant(1))),
        ("a + b * c", Infix("+", Name("a"), Infix("*", Name("b"), Name("c")))),
        ("a // b % c", Infix("%", Infix("//", Name("a"), Name("b")), Name("c"))),
        ("a if b else c", IfElse(Name("a"), Name("b"), Name("c"))),
    ],
)
def test_expression(text: str, expected: nodes.Expr) -> None:
    assert expr(text) == expected


@pytest.mark.parametrize("word", ["value", "where", "none", "not", "rule", "in"])
def test_any_word_can_be_a_keyword_argument(word: str) -> None:
    call = expr(f"f({word}=1)")
    assert isinstance(call, Call)
    assert call.keywords == (nodes.Keyword(word, Constant(1)),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w is const", nodes.IsConst("w")),
        ("x: f32", nodes.HasType("x", nodes.TensorType(("f32",)))),
        ("x: [$C]", nodes.HasType("x", nodes.TensorType((), (LiteralName("C"),)))),
        ("x: f16|bf16[]", nodes.HasType("x", nodes.TensorType(("f16", "bf16"), ()))),
        (
            "x: f32[2, $B, _, *S]",
            nodes.HasType(
                "x",
                nodes.TensorType(
                    ("f32",),
                    (Constant(2), LiteralName("B"), nodes.Wildcard(), Star("S")),
                ),
            ),
        ),
        ("not v ~ f(_)", nodes.Not(nodes.Matches("v", expr("f(_)")))),
        ("uses(y) == 1", Compare("==", expr("uses(y)"), Constant(1))),
        ("distinct(a, b)", Call(Name("distinct"), (Name("a"), Name("b")))),
        ("a <-1", Compare("<", Name("a"), Constant(-1))),
        (
            "a or b and not c",
            nodes.Or(Name("a"), nodes.And(Name("b"), nodes.Not(Name("c")))),
        ),
    ],
)
def test_guard(text: str, expected: nodes.Expr) -> None:
    assert guard(text) == expected


# --- rules and other items ---


def test_where_with_a_reason() -> None:
    where = rule('y = f(x) where a, b else "why" => y\' = x').left[1]
    assert where == nodes.Where((Name("a"), Name("b")), "why")


def test_right_side() -> None:
    right = rule(
        "y = f(x) => s = g(x) y' = s param w = s value = s value v = value"
        " bn.mean <- s meta w, y' <- x {val} keep a, b erase c"
    ).right
    s = Name("s")
    assert right == (
        Bind("s", Call(Name("g"), (Name("x"),))),
        nodes.Replace("y", s),
        nodes.Constructed("param", "w", s),
        Bind("value", s),
        nodes.Constructed("value", "v", Name("value")),
        nodes.Assign("bn.mean", s),
        nodes.Meta(("w", "y'"), "x", ("val",)),
        nodes.Keep(("a", "b")),
        nodes.Erase(("c",)),
    )


def test_modifiers_come_in_any_order() -> None:
    body = "y = f(x) => y' = x"
    one = rule(body, "for (op, $k) in F once benefit 2 inexact 1e-4")
    other = rule(body, "inexact 1e-4 benefit 2 for (op, $k) in F once")
    assert one == other
    assert one.precision == nodes.Precision(1e-4)
    assert one.family == nodes.ForFamily((Name("op"), LiteralName("k")), "F")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("exact", nodes.Precision(0.0)),
        ("inexact", nodes.Precision(None)),
        ("inexact 2", nodes.Precision(2.0)),
    ],
)
def test_precision(header: str, expected: nodes.Precision | None) -> None:
    assert rule("y = f(x) => y' = x", header).precision == expected


def test_operator() -> None:
    found = item("op f = a.b | .c commutes(0, 1) when k == 1")
    when = Compare("==", Name("k"), Constant(1))
    assert found == nodes.OpDef("f", (Name("a.b"), Name(".c")), (0, 1), when)


def test_family_rows_name_operators() -> None:
    found = item("family F(op, $k) = (a.b, 1) | (.m, -1)")
    assert isinstance(found, nodes.FamilyDef)
    rows = [row.values for row in found.rows]
    assert rows == [(Name("a.b"), Constant(1)), (Name(".m"), Constant(-1))]


def test_a_family_of_one_parameter_needs_no_parentheses() -> None:
    assert item("family F(op) = a.b | c") == item("family F(op) = (a.b) | (c)")


def test_use() -> None:
    assert item('use "a.rules" (b, c)') == nodes.Use("a.rules", ("b", "c"))
    assert item("use pkg.hooks (f)") == nodes.UseHooks("pkg.hooks", ("f",))


def test_pipeline() -> None:
    phases = (nodes.Phase("once", ("a", "c.*")), nodes.Phase("fixpoint", ("b",)))
    expected = nodes.PipelineDef("p", phases)
    assert item("pipeline p { once {a, c.*} fixpoint {b} }") == expected


def test_test_block() -> None:
    found = item(
        'test "t" { given (x: f32[2], w: param f32) { y = f(x) return y, w }'
        ' expect r * 1, equal 1e-6, equal, refused r "why" }'
    )
    f32 = nodes.TensorType(("f32",))
    assert found == nodes.TestDef(
        "t",
        (
            nodes.Given("x", nodes.TensorType(("f32",), (Constant(2),))),
            nodes.Given("w", f32, "param"),
        ),
        (Bind("y", Call(Name("f"), (Name("x"),))),),
        (Name("y"), Name("w")),
        (
            nodes.ExpectCount("r", 1),
            nodes.ExpectEqual(1e-6),
            nodes.ExpectEqual(None),
            nodes.ExpectRefusal("r", "why"),
        ),
    )


def test_line_breaks_carry_no_meaning() -> None:
    text = (CASES / "qat_fuse.rules").read_text(encoding="utf-8")
    code = " ".join(line.split("#")[0] for line in text.splitlines())
    with_docs = parsed(text).items
    assert len(parsed(code).items) == len(with_docs)


def test_words_of_items_are_names_elsewhere() -> None:
    words = ("op", "test", "rule", "use", "family", "pattern", "pipeline", "value")
    binds = "\n".join(f"{word} = f({word}, x)" for word in words)
    found = rule(f"{binds} => {binds} y' = x")
    names = [statement.name for statement in found.left if isinstance(statement, Bind)]
    assert tuple(names) == words
    assert found.right[: len(words)] == found.left


def test_a_name_like_a_keyword_goes_on() -> None:
    assert codes("opa = b") == ["E102"]
    assert expr("nothing") == Name("nothing")


def test_spans_cover_the_text_of_a_node() -> None:
    text = "pattern p(x) = f(x, (a + b))  # comment"
    found = item(text)
    assert isinstance(found, nodes.PatternDef)
    assert text[found.span.start : found.span.end] == "pattern p(x) = f(x, (a + b))"
    assert text[found.value.span.start : found.value.span.end] == "f(x, (a + b))"


# --- comments ---


def test_lines_right_above_an_item_document_it() -> None:
    file = parsed("# no\n## One.\n##\n##   Two.\nop a = b\n## no\n\nop c = d")
    assert [found.doc for found in file.items] == ["One.\n\n  Two.", ""]  # type: ignore[union-attr]
    assert [comment.text for comment in file.comments] == ["# no", "## no"]


def test_comments_know_whether_they_stand_alone() -> None:
    file = parsed('# alone\nop a = b # beside "#"\nuse "#no"')
    found = [(comment.text, comment.own_line) for comment in file.comments]
    assert found == [("# alone", True), ('# beside "#"', False)]


# --- errors ---


@pytest.mark.parametrize(
    ("text", "code", "at"),
    [
        ("op a = b é", "E101", "é"),
        ("op a = b 'c'", "E101", "'"),
        ("rul r { }", "E102", "rul"),
        ("ruler { }", "E102", "ruler"),
        ("op a = b }", "E102", "}"),
        ("rule r { y = f(x) }", "E102", "}"),
        ("rule r { y = f(x y) => y' = x }", "E102", "y"),
        ("rule r { y = f(.., x) => y' = x }", "E102", "x"),
        ("rule r { y = f(k=1, x) => y' = x }", "E102", "x"),
        ("op a =", "E103", "="),
        ("rule r { y = f(x) => y' = x", "E103", "{"),
        ("pattern p() = 9223372036854775808", "E104", "9223372036854775808"),
        ("pattern p() = 1e999", "E104", "1e999"),
        (f'use "{"a" * 4097}"', "E104", f'"{"a" * 4097}"'),
        ("pattern p() = " + "(" * 65, "E105", "("),
        ('use "a', "E106", '"a'),
        ('use "a\\', "E106", '"a\\'),
        ('use "a\\qb"', "E106", "\\q"),
        ("pattern p() = __class__", "E107", "__class__"),
        ("pattern p() = a.__globals__.b", "E107", "a.__globals__.b"),
        ("pattern p() = f(__x__=1)", "E107", "__x__"),
        ("pattern p() = None", "E107", "None"),
        ("op if = a", "E107", "if"),
        (f"op {'a' * 129} = b", "E107", "a" * 129),
        ("op a = b\0", "E108", "\0"),
        ("\ufeffop a = b", "E108", "\ufeff"),
        ("# \ud800", "E108", "\ud800"),
        ("rule r once once { y = f(x) => y' = x }", "E109", "once"),
        ("rule r exact inexact { y = f(x) => y' = x }", "E109", "inexact"),
    ],
)
def test_fault(text: str, code: str, at: str) -> None:
    assert (codes(text), pointed_at(text)) == ([code], [at])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("rule r { y = f(x) }", "`=>` is missing"),
        ("rule r { y = f(x) y' = x }", "put `=>` before it"),
        ("rule r { param w = f(x) => y' = w }", "put `=>` before it"),
        ("rule r { y = f(x) -> y' = x }", "`=>`"),
        ("rule r { y = f(x) => where a == b }", "left side"),
        ("rule r { y = f(x) where a = b => y' = x }", "`==`"),
        ("rule r { y == f(x) => y' = x }", "single `=`"),
        ("rule r { y := f(x) => y' = x }", "with `=`"),
        ("rule r { y = f(x); => y' = x }", "without a separator"),
        ("rule r { y = f(x, ...) => y' = x }", "`..`"),
        ("rule r { y = f(x) where a && b => y' = x }", "`and`"),
        ("rule r { y = f(x) where a < b < c => y' = x }", "do not chain"),
        ("rule r { y = f(x\nz = g(y) => z' = y }", "bracket above"),
        ("rule r { y = f(x) => y' = x ** 2 }", "pow"),
        ("rule r { y = f(1.) => y' = x }", "digits"),
        ("rule r { y = f(x) => y' = x", "missing `}`"),
        ("rule r { y = f(x)", "left => right"),
        ("pipeline p { once {a}", "missing `}`"),
        ("pattern p() = f('a')", "double quotes"),
        ("pattern p() = True", "`true`"),
        ("pattern p() = $", "`$eps`"),
        ("// no\nop a = b", "`#`"),
        ("familly F(op) = a", "`family`"),
        ("rule r { f(x) => y' = x }", "`y = f(…)`"),
        ("rule r { y = f(x) => g(x) }", "`y' = g(…)`"),
        ("rule r { y = f(x) .relu(y) => y' = x }", "`y = .relu(…)`"),
        ("rule r exact when a == b once { y = f(x) => y' = x }", "put `once …` before"),
        ("rule r exact when a == b for f in F { y = f(x) => y' = x }", "stands last"),
        ("rule r when a == b { y = f(x) => y' = x }", "is a guard, `where …`"),
        ("rule r { y = f(x) => y' = x where a == b }", "left side"),
        ("rule r { y = f(x) return x }", "right of `=>`"),
        ("rule r { torch.relu(x) => y' = x }", "`y = torch.relu(…)`"),
        ("rule r { y = f(x) => torch.relu(x) }", "`y' = torch.relu(…)`"),
        ("rule r { y = f(x) => z = f(x).to(a) y' = z }", "its value: `to(…)`"),
        ("rule r { y = f(x), where a == b => y' = x }", "without a separator"),
        ("rule r { a, b = f(x) => a' = x }", "`a = getitem(s, 0)`"),
        ("rule r { y = f(x) if a == b => y' = x }", "is a guard, `where …`"),
        ('test "t" { given () { return a } expect r }', "`name * 1`"),
        ('test "t" { given () { return a } expect r == 1 }', "`name * 1`"),
        ("rule my-rule { y = f(x) => y' = x }", "letters, digits and `_`"),
        ("rule r { y = f(x) where shape(x)[0] == 1 => y' = x }", "`size(x, 0)`"),
        ("rule r { y = f(x, b?) where b is none => y' = x }", "`not b`"),
        ("rule r { y = f(x, b?) where b is not none => y' = x }", "`not b`"),
        ("rule r { y = f(x) where a is float => y' = x }", "compared with `==`"),
        ("rule r { y = f(x) where w is constant => y' = x }", "`const`"),
        ("rule r { y = f(x) where x: f32[..., 4] => y' = x }", "`*S`"),
        ("rule r { y = f(x) where x: [*, 4] => y' = x }", "`*S`"),
        ("use prelude.rules", '`use "prelude.rules"`'),
    ],
)
def test_hint(text: str, hint: str) -> None:
    (fault,) = faults(text)
    assert hint in (fault.hint or "")


def test_messages_name_no_terminals_of_the_grammar() -> None:
    for text in ("rule r {", "op a", "rule r { y = f(x", 'test "t" { given (x', "@"):
        (fault,) = faults(text)
        notes = "".join(note.message for note in fault.notes)
        shown = (fault.message + notes).replace("`[`", "")
        assert not any(word.isupper() and len(word) > 2 for word in shown.split())
        assert "ANON" not in shown


def test_all_syntax_errors_of_a_file_are_reported() -> None:
    text = (
        "op a = = b\n"
        "rule one { y = f(x y) => y' = x }\n"
        "rule good { y = f(x) => y' = x }\n"
        "rule open { y = f(x) => y' = x\n"
        "pattern p() = \n"
    )
    lines = [text[: fault.span.start].count("\n") + 1 for fault in faults(text)]
    assert lines == [1, 2, 4, 5]


def test_all_other_faults_of_a_file_are_reported_in_order() -> None:
    text = "op __a__ = b\nrule r exact exact { y = f(None, 1e999) => y' = x }"
    assert codes(text) == ["E107", "E109", "E107", "E104"]


def test_a_line_inside_an_item_may_look_like_the_start_of_one() -> None:
    text = "rule r for\nop in F { y = f(x) => y' = x }\nop a = b"
    assert [type(found) for found in parsed(text).items] == [
        nodes.RuleDef,
        nodes.OpDef,
    ]


def test_what_is_right_is_read_whatever_is_wrong_elsewhere() -> None:
    text = '## Right.\nop a = b\nop c = = d\nop e = f\nuse "open\nop g = h'
    reading = read(Source("test.rules", text))
    assert [found.code for found in reading.problems] == ["E106"]
    names = [found.name for found in reading.file.items if isinstance(found, OpDef)]
    assert names == ["a", "e", "g"]


@pytest.mark.parametrize("above", ["", "# é\n", "op a = b\n\n", "## not a doc\n\n"])
def test_known_parts_are_placed_where_they_now_stand(above: str) -> None:
    text = (CASES / "every_form.rules").read_text(encoding="utf-8")
    known = {part.text: part for part in read(Source("before", text)).parts}
    after = Source("after", above + text)
    found, expected = read(after, known).file, read(after).file
    assert found == expected
    assert list(walk(found)) == list(walk(expected))
    spans = [node.span for node in walk(found) if hasattr(node, "span")]
    assert spans == [node.span for node in walk(expected) if hasattr(node, "span")]
    assert found.comments == expected.comments


def test_the_number_of_syntax_errors_is_bounded() -> None:
    assert len(faults("op a = =\n" * 200)) == MAX_SYNTAX_ERRORS


def test_a_file_is_at_most_a_mebibyte() -> None:
    assert codes("#" * (1 << 20) + "\n") == ["E104"]
    assert codes("é" * (1 << 19) + "\n") == ["E104"]
    assert parsed("#" * ((1 << 20) - 1)).items == ()


def test_a_file_has_a_bounded_number_of_tokens() -> None:
    assert codes("op a = b\n" * 25_001) == ["E104"]


# --- hostile input ---


@pytest.mark.parametrize(
    "text",
    [
        "x" + "+x" * 20_000,
        "x" + " and x" * 20_000,
        "-" * 40_000 + "x",
        "not " * 40_000 + "x",
        "a@" * 20_000 + "x",
        "a if b else " * 10_000 + "x",
    ],
    ids=["sum", "and", "minus", "not", "capture", "choice"],
)
def test_long_chains_are_refused_without_recursion(text: str) -> None:
    assert codes(f"pattern p(x) = {text}") == ["E105"]


def test_the_deepest_expression_can_be_compared_and_printed() -> None:
    text = "-" * (MAX_DEPTH - 10) + "x"
    assert expr(text) == expr(text)
    assert repr(expr(text)).count("Negate") == MAX_DEPTH - 10


def test_long_flat_lists_are_accepted() -> None:
    options = expr(" | ".join("x" for _ in range(20_000)))
    assert isinstance(options, Alternatives)
    assert len(options.options) == 20_000


def test_parsing_imports_no_torch() -> None:
    code = "import sys, rewrite_engine.dsl.printer; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["value", "own", "rule", "w"])
@pytest.mark.parametrize("own", [False, True])
def test_any_name_can_be_written(name: str, own: bool) -> None:
    write = f"own {name}" if own else name
    file = parsed(f"rule r {{ {name} = f(_) => {write} <- 1 }}")
    assert [(a.target, a.own) for a in file.items[0].right] == [(name, own)]
