"""`.pt2` files: what is refused before it can do anything, and how they are written."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rewrite_engine.atomic import replacing
from rewrite_engine.model_files import ModelFileError, load_program, save_program

EVIDENCE = "payload_has_run"


class Payload:
    """Leaves a file in the working directory when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (EVIDENCE,)


class Branching(nn.Module):
    """Exports to nested graphs, symbolic sizes, a constant and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = torch.arange(4.0)

    def forward(self, x, *, scale):
        with torch.no_grad():
            y = x * scale["größe"]
        z = torch.cond(x.sum() > 0, lambda a: a + 1, lambda a: a - 1, (y,))
        return {"z": z + self.constant, "n": x.shape[0] // 2}


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.pt2"
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    batch = {0: torch.export.Dim("batch", min=2)}
    inputs = (torch.randn(2, 3, 8, 8),)
    torch.export.save(torch.export.export(model, inputs, dynamic_shapes=(batch,)), path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tampered(here, model_file) -> Callable[..., Path]:
    """The model with some entries changed by a function, and others added."""

    def write(change=lambda name, data: data, *, added=(), compress=False) -> Path:
        path = here / "tampered.pt2"
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with (
            zipfile.ZipFile(model_file) as source,
            zipfile.ZipFile(path, "w", kind) as target,
        ):
            for entry in source.namelist():
                name = entry.split("/", 1)[1]
                target.writestr(f"model/{name}", change(name, source.read(entry)))
            for name, data in dict(added).items():
                target.writestr(f"model/{name}", data)
        return path

    return write


def replace_in(entry: str, old: str, new: str):
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith(entry):
            return data
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    return change


def replace_entry(entry: str, new: bytes):
    return lambda name, data: new if name.endswith(entry) else data


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def refusal(path: Path) -> str:
    """The message with which a file is refused, after which nothing has happened."""
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(ModelFileError) as caught:
        load_program(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert not Path(EVIDENCE).exists()
    assert not path.is_file() or path.read_bytes() == before
    return message


# --- files that are fine ---


def test_a_program_survives_writing_and_reading(here, model_file):
    program = load_program(model_file)
    save_program(program, here / "copy.pt2", extra_files={"note.txt": "a note"})
    extra: dict[str, str] = {}
    copy = load_program(here / "copy.pt2", extra_files=extra)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(copy.module()(x), program.module()(x))
    assert extra == {"note.txt": "a note"}


def test_nested_graphs_symbols_and_containers_are_no_reason_to_refuse(here):
    inputs = {"x": torch.randn(6, 4), "scale": {"größe": torch.ones(4)}}
    shapes = {"x": {0: torch.export.Dim("n", min=2)}, "scale": {"größe": None}}
    program = torch.export.export(
        Branching(), (), inputs, dynamic_shapes=shapes, strict=False
    )
    save_program(program, here / "model.pt2")
    loaded = load_program(here / "model.pt2").module()(**inputs)
    torch.testing.assert_close(loaded, program.module()(**inputs))


def test_rewriting_the_zip_alone_changes_nothing(tampered):
    assert load_program(tampered()).graph_signature.user_inputs == ("input",)


# --- files of another kind ---


def _missing(path: Path) -> None:
    pass


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "text")


OTHER_KINDS = {
    "missing": (_missing, "no such file"),
    "folder": (Path.mkdir, "is a directory"),
    "empty": (Path.touch, "the file is empty"),
    "text": (lambda path: path.write_text("hello, world"), "not a .pt2 file"),
    "zip": (_archive, "a zip archive, but not a .pt2 file"),
    "checkpoint": (
        lambda path: torch.save({"a": torch.ones(2)}, path),
        "a checkpoint of `torch.save`, not an exported program",
    ),
    "torchscript": (
        lambda path: torch.jit.script(nn.Linear(2, 2)).save(str(path)),
        "a TorchScript module, not an exported program",
    ),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_files_of_another_kind_are_named(here, kind):
    make, expected = OTHER_KINDS[kind]
    make(here / "model.pt2")
    assert expected in refusal(here / "model.pt2")


def test_an_archive_of_an_old_torch_is_named(here):
    with zipfile.ZipFile(here / "model.pt2", "w") as archive:
        archive.writestr("model/version", "8.2")
        archive.writestr("model/serialized_exported_program.json", "{}")
        archive.writestr("model/serialized_state_dict.pt", pickle.dumps(Payload()))
    assert "torch before 2.8" in refusal(here / "model.pt2")


# --- damage ---


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(here, model_file, share):
    data = model_file.read_bytes()
    (here / "model.pt2").write_bytes(data[: int(len(data) * share)])
    assert "truncated or damaged" in refusal(here / "model.pt2")


DAMAGES = {
    "graph cut off": lambda name, data: data[:300] if "models/" in name else data,
    "weight cut off": lambda name, data: data[:300] if "weight_0" in name else data,
    "no table": replace_in("weights_config.json", '"config"', '"konfig"'),
    "deep": replace_entry("models/model.json", b"[" * 100_000),
    "unknown operator": replace_in("model.json", "conv2d.default", "conv9d.default"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_refused_in_one_line(tampered, damage):
    message = refusal(tampered(DAMAGES[damage]))
    assert "cannot be loaded: " in message
    assert len(message) < 400


def test_an_unknown_operator_is_named(tampered):
    message = refusal(tampered(DAMAGES["unknown operator"]))
    assert "torch.ops.aten.conv9d.default" in message


def test_several_programs_are_refused(tampered):
    message = refusal(tampered(added={"models/second.json": b"{}"}))
    assert "one exported program is expected, 2 found" in message


def test_a_file_that_unpacks_to_far_more_is_refused(tampered):
    path = tampered(added={"extra/bomb": bytes(100 * 2**20)}, compress=True)
    assert "would unpack to" in refusal(path)


def test_a_payload_that_unpacks_to_far_more_is_refused(tampered):
    payload = io.BytesIO()
    with zipfile.ZipFile(payload, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 * 2**20))
        archive.writestr("archive/version", "3")
    path = tampered(replace_entry("sample_inputs/model.pt", payload.getvalue()))
    assert "would unpack to" in refusal(path)


# --- payloads that run code ---


def table(path_name: str, *, use_pickle: bool) -> bytes:
    payload = {
        "path_name": path_name,
        "use_pickle": use_pickle,
        "is_param": False,
        "tensor_meta": None,
    }
    return json.dumps({"config": {"constant": payload}}).encode()


def with_constant(path_name: str, *, use_pickle: bool):
    change = replace_entry(
        "constants_config.json", table(path_name, use_pickle=use_pickle)
    )
    return change, {f"data/constants/{path_name}": saved(Payload())}


def unpickled_weight(name: str, data: bytes) -> bytes:
    data = replace_entry("weights/weight_0", saved(Payload()))(name, data)
    if name.endswith("weights_config.json"):
        return data.replace(b'"use_pickle": false', b'"use_pickle": 1', 1)
    return data


PICKLES = {
    "sample inputs": (replace_entry("sample_inputs/model.pt", saved(Payload())), {}),
    "plain pickle": (
        replace_entry("sample_inputs/model.pt", pickle.dumps(Payload())),
        {},
    ),
    "weight": (unpickled_weight, {}),
    "all weights": (
        lambda name, data: data,
        {"data/weights/model.pt": saved(Payload())},
    ),
    "all constants": (
        lambda name, data: data,
        {"data/constants/model.pt": saved(Payload())},
    ),
    "constant": with_constant("tensor_0", use_pickle=True),
    "opaque object": with_constant("opaque_obj_0", use_pickle=False),
    "custom object": with_constant("custom_obj_0", use_pickle=False),
}


@pytest.mark.parametrize("place", PICKLES)
def test_a_pickle_that_could_run_code_is_refused(tampered, place):
    change, added = PICKLES[place]
    assert "could run any code" in refusal(tampered(change, added=added))


def test_the_refusal_names_the_payload_and_what_it_calls(tampered):
    message = refusal(tampered(*PICKLES["sample inputs"][:1]))
    assert f"data/sample_inputs/model.pt is a pickle that calls for `{os.name}." in (
        message
    )


# The call leaves the same evidence as a pickle would.
CALL = f"__import__('os').mkdir('{EVIDENCE}')"
SYMBOL = "Symbol('s31', positive=True, integer=True)"

TEXTS = {
    "size": ("expr_str", CALL, "has the size"),
    "size, hidden in a number": ("expr_str", f'Integer("{CALL}")', "has the size"),
    "size, by attribute": ("expr_str", "Symbol.__init__", "has the size"),
    "size, by builtin": ("expr_str", "open('x')", "has the size"),
    "size, called twice": ("expr_str", "Symbol('s')('t')", "has the size"),
    "size, no expression": ("expr_str", "1 +", "has the size"),
    "name": ("name", f"x={CALL}", "has the name"),
    "operator": ("target", "torch.os.mkdir", "the graph calls"),
    "operator, by dunder": ("target", "torch.ops.aten.__init__", "the graph calls"),
    "overload, by dunder": ("target", "torch.ops.aten.add.__and__", "the graph calls"),
    "inputs": ("in_spec", '[1, {"default_factory_module": "a"}]', "are described by"),
    "inputs, escaped": ("in_spec", '[1, {"\\u005f_enum__": 1}]', "are described by"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_that_would_become_code_is_refused(tampered, case):
    key, text, expected = TEXTS[case]

    def change(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        return json.dumps(with_text(json.loads(data), key, text)).encode()

    assert expected in refusal(tampered(change))


def test_operators_of_bits_are_loaded(here):
    class Bits(torch.nn.Module):
        def forward(self, x, y):
            x &= y | 3
            return x ^ (y << 1) >> 2

    x, y = torch.arange(6), torch.arange(6) * 3
    save_program(torch.export.export(Bits(), (x.clone(), y)), here / "bits.pt2")
    loaded = load_program(here / "bits.pt2")
    called = ("__iand__", "__or__", "__xor__", "__lshift__", "__rshift__")
    assert all(f"aten.{name}." in loaded.graph_module.code for name in called)
    assert loaded.module()(x.clone(), y).equal(Bits()(x.clone(), y))


def with_text(value, key, text):
    """A copy of a value in which everything under a key is the text."""
    if isinstance(value, dict):
        return {
            k: text if k == key and isinstance(v, str) else with_text(v, key, text)
            for k, v in value.items()
        }
    return (
        [with_text(v, key, text) for v in value] if isinstance(value, list) else value
    )


def test_a_compiled_model_is_refused(tampered):
    path = tampered(added={"data/aotinductor/model/library.so": b""})
    assert "a compiled model" in refusal(path)


def test_a_trusted_pickle_is_loaded(tampered):
    change, added = PICKLES["constant"]
    program = load_program(tampered(change, added=added), trust_pickle=True)
    assert program.graph_signature.user_inputs == ("input",)
    assert Path(EVIDENCE).exists()


# --- writing ---


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    here, model_file, monkeypatch
):
    program = load_program(model_file)
    (here / "model.pt2").write_bytes(b"old")

    def fail(program, path, extra_files):
        path.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        save_program(program, here / "model.pt2")
    assert (here / "model.pt2").read_bytes() == b"old"
    assert list(here.iterdir()) == [here / "model.pt2"]


def test_a_written_file_has_the_usual_permissions(here):
    (here / "usual").touch()
    with replacing(here / "new") as fresh:
        fresh.write_text("new")
    assert (here / "new").stat().st_mode == (here / "usual").stat().st_mode


def test_a_replaced_file_keeps_its_permissions_and_its_links(here):
    (here / "file").touch()
    (here / "file").chmod(0o640)
    (here / "link").symlink_to("file")
    with replacing(here / "link") as fresh:
        fresh.write_text("new")
    assert (here / "link").is_symlink()
    assert (here / "file").read_text() == "new"
    assert (here / "file").stat().st_mode & 0o777 == 0o640
