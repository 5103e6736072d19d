"""`rewrite-engine apply --report`: the pages that it writes."""

from __future__ import annotations

from pathlib import Path


def test_the_page_is_written_beside_what_was_asked_for(model, run):
    status, out, err = run(
        "apply", model, "qat_fuse", "--dry-run", "--report", "out.html"
    )
    assert (status, err) == (0, "")
    assert out.endswith("what was done: out.html\n")
    page = Path("out.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "the BatchNorm is in eval mode" in page


def test_several_libraries_have_a_page_each(model, run):
    Path("relu.rules").write_text("rule twice { z = relu(relu(x)) => z' = relu(x) }\n")
    libraries = ("relu.rules", "qat_fuse")
    out = run("apply", model, *libraries, "--dry-run", "--report", "out.html")[1]
    assert "what was done: out.relu.html\nwhat was done: out.qat_fuse.html\n" in out
    assert "<title>relu · rewrites</title>" in Path("out.relu.html").read_text()
    assert not Path("out.html").exists()
