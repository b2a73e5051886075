"""Training of a real model: its losses match a plain PyTorch loop at every ZeRO stage, and a killed run resumes."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import ROOT, losses, train_alone
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.finetunings import plain_losses
from benchmarks.real_models import SMOLLM2, real_model
from data.records import Document
from data.store import write_folder
from train.engine.checkpoint import read_ref
from train.engine.state import states_folder
from train.run.finetune_run import FinetuneRun, TextSource

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
TEXTS = (
    "Marie Curie was born in Warsaw. She moved to Paris in 1891 and studied physics there.",
    "In 1903 she shared the Nobel Prize in Physics with her husband Pierre.",
    "The otter is heavier than the stoat, and the stoat is heavier than the weasel. So is the badger.",
    "ChatML ends a turn with <|im_end|> and GPT-2 writes <|endoftext|> between two texts.",
    "Обь впадает в Карское море.",
)
STEPS, LAYERS = 3, 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FinetuneRun:
    """Every step learns all texts, so that their order does not matter."""
    folder = tmp_path_factory.mktemp("real")
    write_folder(folder / "documents", Document, [Document(f"d{i}", text, "w") for i, text in enumerate(TEXTS)])
    return FinetuneRun(
        name="real",
        base=str(real_model(SMOLLM2)),
        sources=(TextSource(str(folder / "documents")),),
        out=str(folder / "real"),
        num_steps=STEPS,
        batch_size=len(TEXTS),
        learning_rate=1e-4,
        warmup_steps=2,
        weight_decay=0.1,
    )


@pytest.fixture(scope="module")
def run(whole: FinetuneRun, tmp_path_factory: pytest.TempPathFactory) -> FinetuneRun:
    """The same with the first layers of the model, which need a third of its time and memory."""
    folder = tmp_path_factory.mktemp("first-layers")
    model = AutoModelForCausalLM.from_pretrained(whole.base, num_hidden_layers=LAYERS)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole.base).save_pretrained(folder)
    return dataclasses.replace(whole, base=str(folder))


@pytest.fixture(scope="module")
def plain(run: FinetuneRun) -> list[float]:
    return plain_losses(run, TEXTS, torch.float32)


@pytest.mark.parametrize(
    "settings",
    [
        {"stage": 0, "layout": "padded"},
        {"stage": 2, "layout": "padded", "accumulation": 3},
        {"stage": 3, "layout": "packed", "activation_checkpointing": True},
    ],
    ids=lambda settings: f"stage-{settings['stage']}-{settings['layout']}",
)
def test_the_losses_are_those_of_a_plain_loop(
    run: FinetuneRun, plain: list[float], tmp_path: Path, settings: dict[str, Any]
) -> None:
    ref = train_alone(dataclasses.replace(run, out=str(tmp_path / "run"), **settings))
    assert losses(ref) == pytest.approx(plain, abs=1e-3)
    assert plain[-1] < plain[0] - 0.2
    rows = [json.loads(line) for line in (Path(ref.path) / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["grad_norm"] < 100 for row in rows)


def test_the_losses_of_the_whole_model_are_those_of_a_plain_loop(whole: FinetuneRun) -> None:
    assert losses(train_alone(dataclasses.replace(whole, stage=1, layout="packed"))) == pytest.approx(
        plain_losses(whole, TEXTS, torch.float32), abs=1e-3
    )


def test_in_bf16_the_losses_are_those_of_a_plain_loop_with_weights_in_fp32(
    run: FinetuneRun, plain: list[float], tmp_path: Path
) -> None:
    """They lag behind fp32 at first: half a rounding of bf16 is larger than the first updates of most weights."""
    wanted = plain_losses(run, TEXTS, torch.bfloat16)
    for stage in (1, 3):
        ref = train_alone(dataclasses.replace(run, out=str(tmp_path / f"{stage}"), stage=stage, precision="bfloat16"))
        assert losses(ref) == pytest.approx(wanted, abs=5e-2)
    assert wanted[0] == pytest.approx(plain[0], abs=3e-2) and wanted[1] > plain[1] + 0.3
    exported = AutoModelForCausalLM.from_pretrained(ref.path)
    assert exported.dtype == torch.bfloat16


def test_a_killed_run_resumes_from_its_last_state(run: FinetuneRun, tmp_path: Path) -> None:
    calm = dataclasses.replace(run, out=str(tmp_path / "calm"), num_steps=4)
    killed = dataclasses.replace(calm, out=str(tmp_path / "killed"), checkpoint_every=2, keep_last=1)
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(dataclasses.asdict(killed)))
    command = [sys.executable, "-m", "train", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    states = states_folder(Path(killed.out))
    deadline = time.monotonic() + 300
    while not (states / "step-00000002").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path(killed.out).exists()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=300)
    record = json.loads((Path(killed.out) / "checkpoint.json").read_text())
    assert [start["step"] for start in record["starts"]] == [0, 2]
    assert losses(read_ref(Path(killed.out))) == pytest.approx(losses(train_alone(calm)), abs=1e-5)
