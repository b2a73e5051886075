"""What a model folder may be: what cannot be served is one error before anything starts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import make_model

from augment_service.engines.protocol import EngineSpec
from augment_service.model_folder import check_model, load_config, load_tokenizer
from data.errors import InputError
from data.weights import INDEX
from pipeline.cli import main

SERVING = {
    "augment": "augment --documents {out}/none --out {out}/a",
    "evaluate": "evaluate --suite {out}/none --out {out}/e",
    "serve up": "serve up --name broken-model",
    "train": "train --documents {out}/none --out {out}/t",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "sound", 0, tied=True)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def settings(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


INDEXED = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}})
OWN_CODE = {"AutoConfig": "configuration_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"}
UNREADABLE = {  # the change, and what the error must name
    "a shard is missing": (write(INDEX, INDEXED), "model-00002-of-00002"),
    "the index is broken": (write(INDEX, "[]"), "index"),
    "no weights": (remove("model.safetensors"), "safetensors"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
    "an empty tokenizer": (write("tokenizer.json", "{}"), "tokenizer"),
    "a tokenizer that is a list": (write("tokenizer.json", "[]"), "tokenizer"),
    "tokenizer settings that are a list": (write("tokenizer_config.json", "[]"), "tokenizer"),
    "a broken configuration": (write("config.json", "{"), "JSON"),
    "a configuration that is a list": (write("config.json", "[]"), "model"),
    "an unknown kind of model": (settings(model_type="nonsense"), "nonsense"),
    "a value of another type": (settings(num_attention_heads="two"), "num_attention_heads"),
    "an impossible layer": (settings(layer_types=["none"]), "layer_type"),
    "code of its own": (settings(model_type="mine", auto_map=OWN_CODE), "auto_map"),
}
UNSERVABLE = {
    "quantised": (settings(quantization_config={"quant_method": "awq", "bits": 4}), "awq"),
    "an architecture that vLLM lacks": (settings(architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
    "no architecture": (settings(architectures=None), "architecture"),
}


@pytest.mark.parametrize("change, named", {**UNREADABLE, **UNSERVABLE}.values(), ids={**UNREADABLE, **UNSERVABLE})
def test_what_cannot_be_served_is_refused(folder: Path, change: Callable[[Path], None], named: str) -> None:
    change(folder)
    with pytest.raises(InputError) as raised:
        check_model(EngineSpec("vllm", str(folder)), on_cpu=True)
    assert named in raised.value.what + raised.value.where
    assert raised.value.where.startswith(str(folder)) and raised.value.hint


def test_what_can_be_served_is_accepted(folder: Path) -> None:
    spec = EngineSpec("vllm", str(folder))
    check_model(spec, on_cpu=True)
    settings(auto_map=OWN_CODE)(folder)  # beside a class that transformers has
    check_model(spec, on_cpu=True)
    settings(quantization_config={"quant_method": "fp8"})(folder)
    check_model(spec, on_cpu=False)
    settings(max_position_embeddings=2**24, quantization_config=None)(folder)  # the window is cut to the cache
    check_model(spec, on_cpu=True)
    with pytest.raises(InputError):
        check_model(EngineSpec("vllm", str(folder), window=2**25), on_cpu=True)
    with pytest.raises(InputError, match="no pipeline parallelism on CPUs"):
        check_model(EngineSpec("vllm", str(folder), pipeline_parallel=2), on_cpu=True)


def test_code_of_a_model_is_never_run_and_never_asked_about(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("transformers asked the user"))
    (folder / "configuration_mine.py").write_text("raise SystemExit('code was run')")
    settings(model_type="mine", auto_map=OWN_CODE)(folder)
    with pytest.raises(InputError, match="auto_map"):
        load_config(folder)
    load_tokenizer(folder)


@pytest.mark.parametrize("words", SERVING.values(), ids=SERVING)
def test_commands_refuse_a_model_folder_before_they_start_anything(
    folder: Path, tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr("pipeline.serve.commands._launch", lambda *_: pytest.fail("a service was started"))
    write(INDEX, INDEXED)(folder)
    assert main([*words.format(out=tmp_path).split(), "--model", str(folder)]) == 2
    assert "model-00002-of-00002" in capsys.readouterr().err


def test_a_study_refuses_a_model_folder_before_it_makes_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remove("tokenizer.json", "tokenizer_config.json")(folder)
    assert main(["run", "pipeline/recipes/demo.toml", "--model", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert "no tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
