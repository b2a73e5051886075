"""Other weights in a running vLLM engine: swaps, misfits, cold restarts, adapters."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, checkpoint, make_model, plain_scores
from transformers import AutoModelForCausalLM

from augment_service import reference
from augment_service.engines.protocol import EngineSpec, ParityError
from augment_service.engines.vllm import VllmEngine
from augment_service.engines.vllm import engine as engine_module
from augment_service.engines.vllm import llm as host
from augment_service.reference import FILE, Reference, compute_reference, write_reference
from data.errors import InputError
from data.records import Prompt, Score, ScoreItem

ITEMS = [ScoreItem(f"i{i}", CONTEXT, f" w{i} w{i + 1}", ("w1", "w2 w3", "w4 w5 w6 w7")) for i in range(2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models "a" and "b" of one shape, with tied embeddings and with untied ones."""
    home = tmp_path_factory.mktemp("models")
    names = [(name, tied) for tied in (True, False) for name in "ab"]
    return {
        f"{name}-{'tied' if tied else 'untied'}": make_model(home / f"{name}{tied}", seed, tied=tied)
        for seed, (name, tied) in enumerate(names)
    }


@pytest.fixture(scope="module", params=["tied", "untied"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def engine(kind: str, folders: dict[str, Path]) -> Iterator[VllmEngine]:
    engine = VllmEngine(EngineSpec(kind="vllm", model=str(folders[f"a-{kind}"]), kv_cache_gib=0.1, max_lora_rank=8))
    yield engine
    engine.close()


def assert_scores(engine: VllmEngine, folder: Path, model: torch.nn.Module | None = None) -> None:
    for score, wanted in zip(engine.score(ITEMS), plain_scores(folder, ITEMS, model), strict=True):
        assert isinstance(score, Score)
        assert score.log_likelihoods == pytest.approx([sum(tokens) for tokens, _ in wanted], abs=1e-4)
        assert score.token_log_likelihoods == pytest.approx([v for tokens, _ in wanted for v in tokens], abs=1e-4)


def test_weights_swap_in_place_and_back(engine: VllmEngine, kind: str, folders: dict[str, Path]) -> None:
    before = engine.stats()
    for name in "baba":
        folder = folders[f"{name}-{kind}"]
        engine.load_weights(checkpoint(folder))
        assert_scores(engine, folder)
    after = engine.stats()
    assert 0 < after["parity_difference"] < 1e-3
    assert (after["swaps"] - before["swaps"], after["cold_restarts"]) == (4, before["cold_restarts"])


def test_generated_text_is_of_the_weights_in_place(engine: VllmEngine, kind: str, folders: dict[str, Path]) -> None:
    prompt = Prompt("p", "", "", CONTEXT, " w3", 8, 0.0, 1, "")
    texts = []
    for name in "aba":
        engine.load_weights(checkpoint(folders[f"{name}-{kind}"]))
        texts.append(engine.generate([prompt])[0])
    assert texts[0] == texts[2] != texts[1]


def broken(folder: Path, how: str) -> tuple[str, str]:
    """Spoil a copy of a fitting checkpoint; returns what the refusal must say, and the file or folder it must name."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
        return "corrupt", str(weights)
    if how == "no weights":
        weights.unlink()
        return r"no \*\.safetensors", str(folder)
    if how == "no configuration":
        (folder / "config.json").write_text("{}")
        return "config.json describes no model", str(folder)
    if how == "not finite":
        save_file({**tensors, name: tensors[name] * torch.nan}, weights, {"format": "pt"})
        return "finite", str(folder)
    if how == "missing":
        del tensors[name]
    elif how == "too many":
        tensors["model.layers.7.mlp.up_proj.weight"] = tensors[name].clone()
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, weights, {"format": "pt"})
    layer = "layers.7" if how == "too many" else "layers.1"
    words = {"missing": "1 of its tensors are missing", "too many": "1 tensors that the model does not have"}
    return rf"{words.get(how, '1 of its tensors have another shape')}: {layer}.mlp.up_proj.weight", str(folder)


@pytest.mark.parametrize(
    "how", ["truncated", "no weights", "no configuration", "missing", "too many", "another tensor shape", "not finite"]
)
def test_a_broken_checkpoint_does_not_touch_the_engine(
    engine: VllmEngine, kind: str, folders: dict[str, Path], tmp_path: Path, how: str
) -> None:
    good = folders[f"a-{kind}"]
    engine.load_weights(checkpoint(good))
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    what, where = broken(bad, how)
    before = engine.stats()
    with pytest.raises(InputError, match=what) as raised:
        engine.load_weights(checkpoint(bad))
    assert (raised.value.where, bool(raised.value.hint)) == (where, True)
    assert engine.stats() == before
    assert_scores(engine, good)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"kind": "gpt2", "tied": True}, "it is a GPT2LMHeadModel, the engine holds a LlamaForCausalLM"),
        ({"num_layers": 1, "tied": True}, "num_hidden_layers is 1, not 2"),
        ({"tied": None}, "tie_word_embeddings is"),
    ],
)
def test_another_architecture_does_not_touch_the_engine(
    engine: VllmEngine, kind: str, folders: dict[str, Path], tmp_path: Path, options: dict[str, object], what: str
) -> None:
    good = folders[f"a-{kind}"]
    engine.load_weights(checkpoint(good))
    tied = (kind == "untied") if options["tied"] is None else kind == "tied"
    other = make_model(tmp_path / "other", 5, **{**options, "tied": tied})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"does not fit.*{what}"):
        engine.load_weights(checkpoint(other))
    assert_scores(engine, good)


def test_a_head_that_was_saved_beside_tied_embeddings_is_no_misfit(
    engine: VllmEngine, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folders[f"b-{kind}"], other)
    tensors = load_file(other / "model.safetensors")
    tensors["lm_head.weight"] = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).clone()
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    engine.load_weights(checkpoint(other))
    assert_scores(engine, folders[f"b-{kind}"])


@pytest.mark.parametrize("kind", ["tied"], indirect=True)
def test_a_failed_swap_costs_a_cold_restart(
    engine: VllmEngine,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine.load_weights(checkpoint(folders["a-tied"]))
    before = engine.stats()["cold_restarts"]
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(host, "rebuild_tied_head", lambda model: None)
        engine.load_weights(checkpoint(folders["b-tied"]))
    assert engine.stats()["cold_restarts"] == before + 1
    assert caplog.records
    assert_scores(engine, folders["b-tied"])
    engine.load_weights(checkpoint(folders["a-tied"]))
    assert_scores(engine, folders["a-tied"])
    assert engine.stats()["cold_restarts"] == before + 1


@pytest.mark.parametrize("kind", ["tied"], indirect=True)
def test_weights_that_are_not_reproduced_even_after_a_cold_restart_are_not_used(
    engine: VllmEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engine.stats()
    for wrong in (torch.nan, 0.01):  # nats
        with monkeypatch.context() as patch:
            patch.setattr(engine_module, "find_reference", lambda *given, wrong=wrong, **_: shifted(given[0], wrong))
            with pytest.raises(ParityError) as raised:
                engine.load_weights(checkpoint(folders["b-tied"]))
        assert raised.value.where == str(folders["b-tied"])
    assert engine.stats()["cold_restarts"] == before["cold_restarts"] + 2
    engine.load_weights(checkpoint(folders["a-tied"]))
    assert_scores(engine, folders["a-tied"])


@pytest.mark.parametrize("kind", ["tied"], indirect=True)
def test_after_a_start_that_failed_other_weights_can_be_loaded(
    engine: VllmEngine, folders: dict[str, Path], tmp_path: Path
) -> None:
    adapter_of(folders["a-tied"], tmp_path / "adapter")
    for ref in (checkpoint(folders["b-tied"]), checkpoint(tmp_path / "adapter")):
        engine._host.close()
        engine.load_weights(ref)
    engine.load_weights(checkpoint(folders["a-tied"]))
    assert_scores(engine, folders["a-tied"])


def shifted(folder: Path, nats: float) -> Reference:
    """A reference that no engine reproduces."""
    found = compute_reference(folder, ())
    return dataclasses.replace(found, values=tuple(tuple(value + nats for value in row) for row in found.values))


@pytest.mark.parametrize("kind", ["tied"], indirect=True)
def test_a_stale_reference_beside_the_weights_is_computed_anew(
    engine: VllmEngine, folders: dict[str, Path], tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folders["b-tied"], copied)
    write_reference(copied / FILE, shifted(folders["a-tied"], 0.0))
    before = engine.stats()["cold_restarts"]
    engine.load_weights(checkpoint(copied))
    assert engine.stats()["cold_restarts"] == before
    assert_scores(engine, copied)


def test_weights_with_a_stored_reference_are_not_loaded_a_second_time(
    engine: VllmEngine, kind: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folders[f"b-{kind}"], copied)
    write_reference(copied / FILE, compute_reference(copied, ()))
    monkeypatch.setattr(reference, "AutoModelForCausalLM", None)
    engine.load_weights(checkpoint(copied))
    assert 0 < engine.stats()["parity_difference"] < 1e-3


def test_a_copy_of_the_weights_in_another_format_is_not_read(
    engine: VllmEngine, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folders[f"b-{kind}"], copied)
    save_file({"layers.0.wq": torch.ones(2)}, copied / "consolidated.safetensors")
    engine.load_weights(checkpoint(copied))
    assert_scores(engine, folders[f"b-{kind}"])


def adapter_of(folder: Path, target: Path, *, rank: int = 4, seed: int = 1, **options: object) -> PeftModel:
    """A random adapter of a model, saved to `target`."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    model.save_pretrained(target)
    return model


def test_an_adapter_is_served_without_merging(
    engine: VllmEngine, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    base, other = folders[f"a-{kind}"], folders[f"b-{kind}"]
    adapters = {name: tmp_path / name for name in ("one", "two")}
    models = {name: adapter_of(base, path, seed=seed) for seed, (name, path) in enumerate(adapters.items())}
    restarts = engine.stats()["cold_restarts"]
    engine.load_weights(checkpoint(base))
    plain = engine.score(ITEMS)
    for name in ("one", "two", "one"):
        engine.load_weights(checkpoint(adapters[name]))
        assert_scores(engine, base, models[name])
        assert engine.score(ITEMS) != plain
    engine.load_weights(checkpoint(other))
    assert_scores(engine, other)
    engine.load_weights(checkpoint(adapters["two"]))  # over the engine's own model, not over what was there
    assert_scores(engine, base, models["two"])
    engine.load_weights(checkpoint(base))
    assert_scores(engine, base)
    retrained = adapter_of(base, adapters["one"], seed=7)  # other content under the same path
    engine.load_weights(checkpoint(adapters["one"]))
    assert_scores(engine, base, retrained)
    assert engine.stats()["cold_restarts"] == restarts


def test_an_adapter_that_cannot_be_served_does_not_touch_the_engine(
    engine: VllmEngine, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    base = folders[f"a-{kind}"]
    engine.load_weights(checkpoint(base))
    adapter_of(base, tmp_path / "thick", rank=16)
    adapter_of(base, tmp_path / "whole", modules_to_save=["norm"])
    adapter_of(make_model(tmp_path / "model", 3, tied=kind == "tied", num_layers=3), tmp_path / "deep")
    shutil.copytree(tmp_path / "thick", tmp_path / "garbage")
    (tmp_path / "garbage" / "adapter_config.json").write_text(json.dumps({"alpha": 1}))
    for name, what in {
        "thick": "adapters of a rank above 8, and this one has rank 16",
        "whole": "modules_to_save",
        "garbage": "describes no LoRA adapter",
        "deep": r"adapts 7 layers .*: layers\.2\.",
    }.items():
        with pytest.raises(InputError, match=what):
            engine.load_weights(checkpoint(tmp_path / name))
        assert_scores(engine, base)
