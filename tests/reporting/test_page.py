"""The page of a run: what is in it, what it may do, how large it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, loads
from rewrite_engine.graph_text import graph_text
from rewrite_engine.reporting.page import Miss, Record
from rewrite_engine.rewriting.run import Result
from tests.graphs import chain, graph_of

aten = torch.ops.aten


def data_of(page: str) -> dict[str, list]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def plain(page: str) -> str:
    text = re.sub(
        r"<script.*?</script>|<style.*?</style>|<[^>]+>", "", page, flags=re.S
    )
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&#x27;", "'")


def test_a_run_that_was_not_recorded_has_no_page() -> None:
    gm = fx.symbolic_trace(nn.ReLU())
    result = engine.apply(gm, loads("rule r { z = tanh(x) => z' = relu(x) }"))
    with pytest.raises(ValueError, match="record=True"):
        result.report.to_html()


def test_every_node_is_text_on_both_sides(result: Result, page: str) -> None:
    text = plain(page)
    lines = graph_text(result.exported_program).splitlines()[1:]
    nodes = [line.strip() for line in lines if line.startswith("  %")]
    assert len(nodes) > 300
    for line in nodes:
        assert line in text
    assert "%batch_norm: f32[2, 16, 16, 16] = aten.batch_norm.default(%conv2d," in text


def test_every_rewrite_is_drawn_before_and_after(page: str) -> None:
    data = data_of(page)
    assert len(data["rewrites"]) == 20
    assert len(data["shapes"]) < 12, "equal drawings share a layout"
    for rewrite in data["rewrites"]:
        assert rewrite["rule"] == "fuse_conv_bn"
        shape, names = rewrite["before"]
        assert rewrite["at"] in names
        assert len(data["shapes"][shape][2]) == len(names) <= 60
        assert f'data-k="{data["rewrites"].index(rewrite) + 1}"' in page


def test_the_page_is_small(page: str) -> None:
    assert len(page.encode()) <= 400_000


def test_the_policy_allows_its_own_style_and_script_only(page: str) -> None:
    policy = re.search(r'Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(r' (style|on\w+)="', page)


def test_nothing_outside_is_referred_to(page: str) -> None:
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert links
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page
    assert re.findall(r"https?://[^\s\"]+", page) == ["http://www.w3.org/2000/svg"]


def test_links_lead_to_something(page: str) -> None:
    ids = set(re.findall(r' id="([^"]*)"', page))
    assert {link[1:] for link in re.findall(r'href="(#[^"]*)"', page)} <= ids


def test_two_runs_write_the_same_page_but_for_times() -> None:
    def written() -> str:
        gm = chain(aten.relu.default, aten.relu.default)
        rules = loads("rule twice { z = relu(relu(x)) => z' = relu(x) }", "a.rules")
        page = engine.apply(gm, rules, record=True).report.to_html()
        return re.sub(r"<td>[\d.]+</tr>|<b>\d+</b> ms", "", page)

    assert written() == written()


def test_text_is_escaped() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    gm = graph_of(
        lambda f, x: f(aten.relu.default, (f(aten.einsum.default, (evil, [x, x])),))
    )
    rules = loads("rule r { z = relu(y) => z' = sigmoid(y) }")
    report = engine.apply(gm, rules, record=True).report
    record = report.record
    assert isinstance(record, Record)
    hostile = Record(evil, record.graphs, (Miss(evil, evil, 1, 2, evil),))
    page = hostile.html(report)
    assert "<img" not in page
    assert page.count("<script") == 2
    assert "&lt;/script&gt;" in page
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*)</script>', page
    )
    assert "<" not in data
    assert data_of(page)["rewrites"][0]["place"] == "<text>:1"


def test_recording_changes_nothing(result: Result) -> None:
    from benches.models import resnet_like
    from rewrite_engine import load

    model, inputs = resnet_like(pairs=20)
    program = torch.export.export(model, inputs)
    plain_result = engine.apply(program, load("qat_fuse"))
    assert plain_result.report.record is None
    assert plain_result.report.rules[0].matches == result.report.rules[0].matches
    assert graph_text(program) == graph_text(result.exported_program)


def test_graphs_of_branches_are_recorded_too() -> None:
    def once(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.relu(x))

    inner = fx.symbolic_trace(once)
    outer = fx.symbolic_trace(once)
    outer.add_module("inner", inner)
    rules = loads("rule twice { z = relu(relu(x)) => z' = relu(x) }")
    result = engine.apply(outer, rules, recurse=True, record=True)
    record = result.report.record
    assert isinstance(record, Record)
    assert len(record.graphs) == 2
    assert [rewrite.number for rewrite in record.rewrites] == [1, 2]
