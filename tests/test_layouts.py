"""Real finetuning in every layout and objective, one process: the loss does not depend on how texts share rows."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.errors import InputError
from data.records import Distribution, Document
from data.seeds import vocabulary_fingerprint
from data.store import write_folder
from train.engine.checkpoint import METRICS
from train.model.traits import Traits
from train.run.finetune_run import FinetuneRun, Lora, TextSource
from train.run.loop import finetune
from train.run.training_plan import read_plan

Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `base`, and `documents` of 4 to 31 words."""
    folder = tmp_path_factory.mktemp("layouts")
    make_model(folder / "base", 0, tied=True)
    texts = [" ".join(f"w{(7 * i + j * j) % 120}" for j in range(4 + i * i % 28)) for i in range(24)]
    write_folder(folder / "documents", Document, [Document(f"d{i}", text, "w0") for i, text in enumerate(texts)])
    return folder


def train(world: Path, out: Path, **changes: Any) -> list[dict[str, Any]]:
    """The lines of the run's log."""
    source = TextSource(str(world / "documents"))
    run = FinetuneRun("r", str(world / "base"), (source,), str(out), num_steps=8, batch_size=6, learning_rate=3e-3)
    finetune(dataclasses.replace(run, **changes), lambda row: None)
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def test_packed_and_padded_runs_have_one_loss_curve(world: Path, tmp_path: Path) -> None:
    logs = {layout: train(world, tmp_path / layout, layout=layout) for layout in ("packed", "padded", "auto")}
    curves = {layout: [row["loss"] for row in log] for layout, log in logs.items()}
    assert curves["packed"] == pytest.approx(curves["padded"], abs=1e-5)
    assert curves["packed"][-1] < curves["packed"][0] - 0.1
    plans = {layout: read_plan(tmp_path / layout) for layout in logs}
    assert plans["auto"]["layout"]["name"] == "packed" and "arithmetic" in plans["auto"]["layout"]["why"]
    for layout, log in logs.items():
        assert (plans[layout]["num_steps"], plans[layout]["num_tokens"]) == (len(log), log[-1]["total_tokens"])
    assert not list(tmp_path.glob(".*"))  # neither tokens nor work folders stay behind


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulation": 2},
        {"accumulation": 2, "stage": 3, "activation_checkpointing": True},
        {"accumulation": 2, "lora": Lora(rank=4), "learning_rate": 3e-2},
    ],
    ids=str,
)
def test_packed_rows_go_with_parts_and_adapters(world: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    packed = train(world, tmp_path / "packed", layout="packed", **settings)
    padded = train(world, tmp_path / "padded", layout="padded", **{**settings, "accumulation": 1})
    assert [row["loss"] for row in packed] == pytest.approx([row["loss"] for row in padded], abs=1e-5)
    assert packed[-1]["loss"] < packed[0]["loss"] - 0.05


def test_a_budget_of_tokens_ends_the_schedule_of_rates_with_the_run(world: Path, tmp_path: Path) -> None:
    log = train(world, tmp_path / "run", num_steps=0, num_tokens=600, warmup_steps=2)
    assert log[-1]["total_tokens"] == pytest.approx(600, abs=16)
    assert [row["learning_rate"] for row in log[-2:]] == sorted(
        (row["learning_rate"] for row in log[-2:]), reverse=True
    )
    assert log[-1]["learning_rate"] < 3e-3 / (len(log) - 3)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_distillation_begins_at_nothing_where_the_teacher_is_the_student(
    world: Path, tmp_path: Path, layout: str
) -> None:
    """Another teacher's divergence is above 0 and falls; the tokens alone, without the teacher, cost more."""
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    make_model(tmp_path / "other", 1, tied=True)
    for name, teacher in (("self", world / "base"), ("another", tmp_path / "other")):
        model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
        write_folder(tmp_path / name, Distribution, [taught(model, tokenizer, i) for i in range(8)])
    logs = {
        name: train(
            world,
            tmp_path / f"{name}-run",
            sources=(TextSource(str(tmp_path / name)),),
            objective="distillation",
            layout=layout,
            accumulation=2,
        )
        for name in ("self", "another")
    }
    assert logs["self"][0]["loss"] == pytest.approx(0.0, abs=1e-5)
    assert logs["another"][0]["loss"] > 0.1 > logs["self"][-1]["loss"]
    assert logs["another"][-1]["loss"] < logs["another"][0]["loss"]


def taught(model: Any, tokenizer: Any, number: int) -> Distribution:
    ids = torch.tensor([[(number * 13 + i * i) % 100 + 3 for i in range(5 + number)]])
    with torch.no_grad():
        top = model(ids).logits[0, :-1].log_softmax(-1).topk(10)
    vocabulary = vocabulary_fingerprint(tokenizer.get_vocab())
    indices, values = (tuple(part.flatten().tolist()) for part in (top.indices, top.values))
    return Distribution(f"t{number}", "", tuple(ids[0].tolist()), indices, values, 10, vocabulary)


def test_a_model_that_leaks_is_padded_or_refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.run.loop.traits_of", lambda config: Traits("sdpa", "it leaks", chunked=True))
    with pytest.raises(InputError, match="it leaks"):
        train(world, tmp_path / "packed", layout="packed")
    train(world, tmp_path / "auto")
    assert read_plan(tmp_path / "auto")["layout"]["name"] == "padded"
