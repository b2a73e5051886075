"""Fingerprints of models: they follow the content, from the cache too, and corrupt files are input errors."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data import weights
from data.errors import InputError
from data.weights import missing_files, model_fingerprint, weight_files, weights_fingerprint

TINY = Path(__file__).resolve().parent.parent / "models" / "tiny"
FILES = ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "prompts.toml")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the embedded model, old enough to be cached, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    for name in FILES:
        shutil.copy(TINY / name, folder)
        os.utime(folder / name, (1e9, 1e9))
    return folder


def cached(folder: Path) -> list[Path]:
    return [path for path in (folder.parent / "cache").rglob("*") if path.is_file()]


def test_a_fingerprint_is_read_once_and_cached(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = weights_fingerprint(model)
    assert len(cached(model)) == 1
    monkeypatch.setattr(weights, "_tensor_digests", lambda path: pytest.fail("the file was read again"))
    assert weights_fingerprint(model) == first
    cached(model)[0].write_text(first[:7])  # damaged
    with pytest.raises(pytest.fail.Exception):
        weights_fingerprint(model)


@pytest.mark.parametrize("changed", ["time", "size", "path"])
def test_a_file_that_does_not_match_is_read(model: Path, changed: str) -> None:
    first = weights_fingerprint(model)
    cached(model)[0].write_text("0" * 32)  # what a stale entry would give
    assert weights_fingerprint(model) == "0" * 32
    path = model / "model.safetensors"
    if changed == "time":
        os.utime(path, (1.1e9, 1.1e9))
    elif changed == "size":
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, (1e9, 1e9))
    else:
        model = model.rename(model.with_name("moved"))
    assert weights_fingerprint(model) == first


def test_a_file_that_was_just_written_is_not_cached(model: Path) -> None:
    os.utime(model / "model.safetensors", (time.time(), time.time()))
    weights_fingerprint(model)
    assert not cached(model)


@pytest.mark.parametrize("home", ["missing", "unwritable", "none"])
def test_without_a_cache_there_is_no_error(model: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    expected = weights_fingerprint(model)
    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        blocked = model.parent / "file"
        blocked.touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(blocked if home == "unwritable" else model.parent / "a" / "b"))
    assert weights_fingerprint(model) == expected


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_models_fingerprint_follows_its_other_files(model: Path, name: str) -> None:
    before = model_fingerprint(model)
    (model / "prompts.toml").write_text("")
    assert model_fingerprint(model) == before
    content = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps(content | {"changed": 1}))
    assert model_fingerprint(model) != before
    (model / name).unlink()
    assert model_fingerprint(model) != before


def sharded(model: Path) -> tuple[Path, Path]:
    """Two files in place of one, and the index that names them."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    files = [model / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = names[::2], names[1::2]
    for path, half in zip(files, halves, strict=True):
        save_file({name: tensors[name] for name in half}, path)
    weight_map = {name: path.name for path, half in zip(files, halves, strict=True) for name in half}
    (model / weights.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (model / "model.safetensors").unlink()
    return files[0], files[1]


def test_only_the_files_of_the_index_are_read(model: Path) -> None:
    before = weights_fingerprint(model)
    files = sharded(model)
    assert weights_fingerprint(model) == before
    save_file({"layers.0.wq": torch.ones(2)}, model / "consolidated.safetensors")
    assert weight_files(model) == list(files)
    assert weights_fingerprint(model) == before
    files[1].unlink()
    assert missing_files(model) == [files[1].name]
    with pytest.raises(InputError, match=files[1].name):
        weights_fingerprint(model)


def test_a_copy_in_another_format_is_not_read_twice(model: Path) -> None:
    save_file({"layers.0.wq": torch.ones(2)}, model / "consolidated.safetensors")
    assert weight_files(model) == [model / "model.safetensors"]


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"\xff" * 100,
        header(b"no json"),
        header(b"[]"),
        header(b'{"w": {}}'),
        header(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}') + b"1234",
        header(b'{"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}') + b"1234",
        (1 << 62).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_corrupt_file_is_an_input_error(model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="corrupt") as caught:
        weights_fingerprint(model)
    assert caught.value.where.endswith("model.safetensors")
