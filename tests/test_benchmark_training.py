"""The benchmarks of training: texts, clock, peaks, smoke runs of our side alone, memory, and what they refuse."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from benchmarks import clock, corpora, harness, launch, memory, peers, training
from benchmarks.corpora import Load
from benchmarks.harness import OURS, Bench
from benchmarks.settings import shared_environment
from benchmarks.sides.peak import PeakSide
from benchmarks.training_scene import SPECS, TINY, Scene
from train.plan.flops import flops_per_token
from train.plan.shapes import read_shape


def test_texts_are_as_long_as_the_papers_and_every_round_has_its_own() -> None:
    words = [f"w{number}" for number in range(50)]
    short = corpora.make_texts(Load("sentences", 8, 20), "a", words)
    long = corpora.make_texts(Load("documents", 8, 20), "a", words)
    assert len(short) == len(long) == 160
    assert {min(5, len(text.split())) for text in short} == {5} and max(len(text.split()) for text in short) == 30
    lengths = [len(text.split()) for text in long]
    assert min(lengths) >= 4 * 5 and max(lengths) <= 20 * 30 and max(lengths) > 300
    assert short == corpora.make_texts(Load("sentences", 8, 20), "a", words)
    assert not set(short) & set(corpora.make_texts(Load("sentences", 8, 20), "b", words))


def test_passages_are_english_of_the_wanted_length_and_every_round_has_its_own() -> None:
    for kind, (least, most) in corpora.PASSAGE_WORDS.items():
        texts = corpora.make_passages(Load(kind, 8, 5), "a")
        assert len(texts) == len(set(texts)) == 40
        assert all(least <= len(text.split()) <= most for text in texts)
        assert sum(" the " in text for text in texts) > 30
        assert texts == corpora.make_passages(Load(kind, 8, 5), "a")
        assert not set(texts) & set(corpora.make_passages(Load(kind, 8, 5), "b"))


def test_the_larger_model_has_25_million_parameters(tmp_path: Path) -> None:
    folder = corpora.make_model(tmp_path / "model")
    model = LlamaForCausalLM.from_pretrained(folder)
    assert 24e6 < model.num_parameters() < 26e6
    assert len(corpora.words_of(folder)) == corpora.NUM_WORDS


def test_the_clock_starts_with_the_pass_before_the_first_step_and_ends_with_the_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LlamaModel, "forward", LlamaModel.forward)  # so that it is put back
    ticks = iter(range(100))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    watch = clock.Clock()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    collate = watch.counted(lambda rows: {"labels": torch.tensor(rows)})
    watch.reset()  # tick 1
    for _ in range(2):  # as a probe would do: ticks 2 and 3
        model(input_ids=torch.ones(1, 50, dtype=torch.long))
    for _ in range(3):  # ticks 4 (the pass), 5, 6, 7 (the steps)
        labels = collate([[1, 2, -100, 3]])["labels"]
        model(input_ids=labels.clamp(0), labels=labels).loss.backward()
        optimizer.step()
    seen = watch.read()
    assert seen == {"seconds": 3, "before": 3, "after": 1, "steps": 3, "positions": 12, "labels": 6}


def test_the_trainers_have_the_builds_that_we_have() -> None:
    wanted = peers.trainer_requirements(on_gpu=False)
    assert f"torch=={importlib.metadata.version('torch')}" in wanted
    assert {line.partition("=")[0].partition(">")[0] for line in wanted} == {
        "torch", "deepspeed", "transformers", "datasets", "accelerate", "trl",
    }  # fmt: skip
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("trl")


def open_scene(folder: Path) -> Scene:
    flags = harness.build_parser("training", "").parse_args([])
    bench = Bench("training", flags, folder, Console(quiet=True), on_gpu=False, command="")
    return Scene(bench, "tiny", corpora.make_model(folder / "model", **TINY), SPECS["tiny"])


class Stub:
    """Stands for a side's process: answers what it was told to."""

    def __init__(self, **value: Any) -> None:
        self._value = value

    def call(self, method: str, **arguments: object) -> Any:
        return type("Answer", (), {"value": {"seconds": 2.0, "positions": 90, "labels": 0} | self._value})


def test_sides_that_did_other_work_are_noticed(tmp_path: Path) -> None:
    scene, load = open_scene(tmp_path), Load("sentences", 2, 2)
    scene.sides = {OURS: Stub(losses=[1.0, 2.0]), "same_batches": Stub(losses=[1.0, 2.00005])}  # type: ignore[dict-item]
    assert (scene.ours(load, 0), scene.bare(load, 0, "same_batches")) == (2.0, 2.0)
    assert scene.bench.different == []
    scene.sides["same_batches"] = Stub(losses=[1.0, 2.1], positions=91)  # type: ignore[assignment]
    scene.bare(load, 0, "same_batches")
    assert [line.split(":")[1].split(" of")[0] for line in scene.bench.different] == [
        " losses",
        " losses",
        " positions",
    ]
    tokens = scene.tokens("tiny-sentences-0")
    for labels, complaints in ((tokens, 3), (tokens - 1, 4)):
        scene.sides["bare_loop"] = Stub(losses=[], labels=labels)  # type: ignore[assignment]
        scene.bare(load, 0, "bare_loop")
        assert len(scene.bench.different) == complaints


def test_a_text_is_as_long_as_the_tokens_that_are_learned_of_it(tmp_path: Path) -> None:
    scene = open_scene(tmp_path)
    corpora.write_texts(["w0 w1 w2", "w5"], tmp_path / "texts" / "tiny-sentences-0")
    assert scene.lengths("tiny-sentences-0") == [3, 1]  # without the first token, with the end
    assert scene.tokens("tiny-sentences-0") == 4


def test_the_ratios_are_the_worst_and_those_of_the_real_model_have_names_of_their_own(tmp_path: Path) -> None:
    scene = open_scene(tmp_path)

    def entry(name: str, ratio: float, **more: float) -> dict[str, Any]:
        return {"scene": name, "sides": {OURS: {"over_ours": 1.0}, "trl": {"over_ours": ratio}}, **more}

    scene.bench.report["loads"] = {
        "a": entry("tiny", 1.5),
        "b": entry("25M", 1.2),
        "c": entry("smollm2", 1.1, share_of_matmul_peak=0.7),
        "d": entry("smollm2", 1.3, share_of_matmul_peak=0.5),
    }
    found = training.ratios_of(scene.bench)
    assert found == {"trl": 1.2, "smollm2_trl": 1.1, "share_of_matmul_peak": 0.5}
    assert found.keys() <= training.GOALS.keys()


def test_the_fastest_product_is_the_peak() -> None:
    shapes = [(64, 32, 48), (128, 128, 128)]
    found = PeakSide().measure_peak("cpu", dtype="float32", shapes=shapes)
    assert len(found["flops_by_shape"]) == 2
    assert found["flops"] == max(found["flops_by_shape"]) > min(found["flops_by_shape"]) > 0


def test_the_share_of_the_peak_is_that_of_the_flops_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PEAK_TOKENS", 64)
    monkeypatch.setattr(training, "PEAK_WIDTHS", (64, 128))
    scene = open_scene(tmp_path)
    scene.bench.flags.rounds = 1
    corpora.write_texts(["w0 w1 w2", "w5"], tmp_path / "texts" / "tiny-sentences-0")
    entry: dict[str, Any] = {"scene": "tiny", "kind": "sentences", "tokens": [4], "sides": {OURS: {"median": 0.5}}}
    scene.bench.report["loads"] = {"tiny sentences": entry}
    training.compare_with_peak(scene, shared_environment(on_gpu=False))
    peak = scene.bench.report["peak"]
    assert len(peak["flops_by_shape"]) == 4
    row_tokens = (3 * 3 + 1 * 1) / 4  # three tokens are in a text of three, one in a text of one
    flops = 4 * flops_per_token(read_shape(scene.model), row_tokens) / 0.5
    assert entry["share_of_matmul_peak"] == pytest.approx(flops / peak["flops"])


def test_a_scene_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        training.main(["--scene", "huge"])
    assert ended.value.code == 2
    assert "smollm2" in capsys.readouterr().err


def test_our_side_and_the_bare_loops(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert training.main(["--smoke", "--ours-only", "--json", str(out), "--folder", str(tmp_path / "work")]) == 0
    report = json.loads(out.read_text())
    assert set(report["ratios"]) == {"bare_loop", "same_batches"} < set(training.GOALS)
    assert 0 <= report["max_loss_difference"] < 1e-4  # on some processors they agree to the bit
    assert set(report["loads"]) == {"tiny sentences", "tiny documents"}
    assert report["loads"]["tiny documents"]["positions_over_tokens"]["bare_loop"] > 1
    assert report["threads"] == {"tiny": 1}
    assert report["start"]["imports"] > 0
    assert "deepspeed" in report["versions"][OURS]


@pytest.mark.timeout(300)
def test_the_parts_of_a_start_are_told(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert launch.main(["--smoke", "--json", str(out), "--folder", str(tmp_path / "work")]) == 0
    report = json.loads(out.read_text())
    parts = report["models"]["tiny"]["medians"]
    told = {launch.PYTHON, launch.SESSION, launch.GROUP, launch.IMPORTS, launch.STEP, launch.END, launch.FURTHER}
    assert parts.keys() - told == {
        "joining the group", "looking for earlier work", "loading the model", "reading the texts",
        "starting the engine",
    }  # fmt: skip
    assert min(parts.values()) >= 0
    assert 0 < parts[launch.FURTHER] < parts[launch.GROUP]
    corpus = report["corpus"]
    assert corpus["first"].keys() == corpus["further"].keys() == {"planning", "reading"}
    assert report["ratios"]["further_run_texts_seconds"] == sum(corpus["further"].values()) > 0


def test_the_memory_of_a_run_beside_its_plan(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert memory.main(["--smoke", "--json", str(out), "--folder", str(tmp_path / "work")]) == 0
    report = json.loads(out.read_text())
    assert [(case["model"], case["stage"]) for case in report["cases"]] == [("tiny", 0), ("tiny", 1)]
    for case in report["cases"]:
        parts = case["parts"]
        resident = sum(parts[name] for name in ("weights", "gradients", "optimizer", "buffers", "process"))
        assert case["planned"] == resident + max(parts["activations"] + parts["logits"], parts["step"])
        assert 0 < case["before"] < case["measured"] == case["before"] + case["growth"]
        assert all(phase["peak"] >= phase["resident"] > 0 for phase in case["phases"].values())
        assert case["growth"] > parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert report["ratios"]["plan_error"] == max(abs(case["planned_over_measured"] - 1) for case in report["cases"])
