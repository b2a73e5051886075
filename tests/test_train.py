"""The finetuning loop alone in one process, with real DeepSpeed: plain losses, whole checkpoints, wrong input."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import encode, losses, make_run, make_world, plain_loss, read_texts, train_all, train_alone
from transformers import AutoModelForCausalLM, AutoTokenizer

from augment_service.reference import FILE, find_reference
from data.errors import InputError
from data.records import Augmentation, Generation
from data.store import write_folder
from data.weights import weights_fingerprint
from train.engine import export
from train.engine.checkpoint import read_ref
from train.run.finetune_run import TextSource
from train.run.loop import learning_rate
from train.texts.sources import name_texts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("train"))


@pytest.mark.parametrize("stage", [1, 3])
def test_the_loss_is_the_plain_one_and_the_checkpoint_reloads(world: Path, tmp_path: Path, stage: int) -> None:
    """One step of rate 0 on all texts: transformers' own loss, and weights that come back unchanged."""
    run = make_run(
        world, tmp_path / "still", num_steps=1, warmup_steps=0, batch_size=24, learning_rate=1e-30, stage=stage
    )
    ref = train_alone(run)
    assert ref == read_ref(tmp_path / "still")
    assert ref.fingerprint == weights_fingerprint(tmp_path / "still") == weights_fingerprint(world / "base")
    assert (tmp_path / "still" / FILE).exists()
    assert find_reference(tmp_path / "still", torch.bfloat16) == find_reference(world / "base", torch.bfloat16)
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (world / "base", ref.path))
    tokenizer = AutoTokenizer.from_pretrained(ref.path)
    rows = encode(read_texts(run.sources), tokenizer)
    input_ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    assert torch.equal(before(input_ids).logits, after(input_ids).logits)
    assert losses(ref) == pytest.approx([plain_loss(run, world / "base")], abs=1e-5)


def test_one_seed_gives_one_checkpoint_and_another_seed_another(world: Path, tmp_path: Path) -> None:
    first, again, other = (
        train_alone(make_run(world, tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_finished_runs_are_skipped_and_changed_ones_refused(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run")
    ref = train_alone(run)
    written = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    moved = dataclasses.replace(run, base=str(world / "documents" / ".." / "base"), name="renamed")
    elsewhere = dataclasses.replace(moved, stage=3, accumulation=2, activation_checkpointing=True, layout="padded")
    for same in (run, moved, elsewhere):
        assert train_alone(same) == ref
    content = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert content["computed_with"]["stage"] == 1 and content["computed_with"]["layout"] == "auto"
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="other settings"):
        train_alone(dataclasses.replace(run, learning_rate=2e-2))
    with pytest.raises(InputError, match="other settings"):
        train_all([dataclasses.replace(run, num_steps=13)], 1, tmp_path / "storage", [])


def test_a_diverging_run_names_itself_the_step_and_its_rows(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "wild", learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(
        InputError, match=r"(?s)became (nan|inf) at step \d+ .*run wild, .* d\d+(, d\d+){6} in .*documents"
    ):
        train_alone(run)
    assert not (tmp_path / "wild").exists()


def augmentation(name: str, corpus: str, method: str, text: str, verdict: str) -> Augmentation:
    return Augmentation(name, corpus, method, ("d",), "", text, "", verdict, 0.0, "stop", "", "", "", 0.0, 0)


def test_rows_are_named_by_their_ids_among_those_that_are_kept(tmp_path: Path) -> None:
    write_folder(tmp_path / "plain", Generation, [Generation(f"p{i}", f"w{i} w1", "stop", 2) for i in range(3)])
    rows = [augmentation(f"a{i}", f"w{i % 2}", "local", f"w{i} w2", "kept") for i in range(6)]
    write_folder(tmp_path / "made", Augmentation, rows)
    assert name_texts(TextSource(str(tmp_path / "made"), corpus="w1"), [2, 0]) == ["a5", "a1"]
    assert name_texts(TextSource(str(tmp_path / "plain")), [1]) == ["row 1"]


def test_sources_keep_their_world_methods_and_verdict(tmp_path: Path) -> None:
    rows = [
        augmentation(str(i), world, method, f"text {i}", verdict)
        for i, (world, method, verdict) in enumerate(
            [("w0", "local", "kept"), ("w1", "local", "kept"), ("w0", "global", "kept"), ("w0", "local", "repeated")]
        )
    ]
    write_folder(tmp_path / "made", Augmentation, rows)
    source = TextSource(str(tmp_path / "made"), corpus="w0", verdict_kept_only=True)
    assert read_texts([source]) == ["text 0", "text 2"]
    assert read_texts([dataclasses.replace(source, methods=("global",))]) == ["text 2"]
    assert read_texts([dataclasses.replace(source, corpus="w9")]) == []
    with pytest.raises(InputError, match="no finished Arrow folder"):
        read_texts([TextSource(str(tmp_path))])


def test_fingerprints_follow_the_weights_and_not_the_files(world: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(world / "base")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert weights_fingerprint(tmp_path / "sharded") == weights_fingerprint(world / "base")
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    model.save_pretrained(tmp_path / "changed")
    assert weights_fingerprint(tmp_path / "changed") != weights_fingerprint(world / "base")
    cut = tmp_path / "changed" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        weights_fingerprint(tmp_path / "changed")
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        weights_fingerprint(world / "documents")


def test_learning_rates_rise_and_fall(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path, num_steps=6, warmup_steps=2, learning_rate=1.0)
    rates = {
        s: [learning_rate(dataclasses.replace(run, schedule=s), i) for i in range(6)] for s in ("linear", "cosine")
    }
    assert rates["linear"] == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    assert rates["cosine"] == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert learning_rate(dataclasses.replace(run, schedule="constant"), 5) == 1.0


def test_weights_that_are_not_finite_are_not_exported(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(world, tmp_path / "run", num_steps=1, warmup_steps=0)

    whole = export._write_whole

    def write(engine: Any, *words: Any) -> None:
        with torch.no_grad():
            engine.module.model.norm.weight.mul_(torch.nan)
        whole(engine, *words)

    monkeypatch.setattr(export, "_write_whole", write)
    with pytest.raises(InputError, match=r"model\.norm\.weight") as refusal:
        train_alone(run)
    assert refusal.value.where == "run run" and not (tmp_path / "run").exists()
