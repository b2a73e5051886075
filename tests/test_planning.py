"""Plans and progress on the command line: printed, refused before anything starts."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from training_runs import TINY, large_model, write_sentences

from cluster.memory import host_bytes, share_of_nodes
from cluster.placement import Placement
from pipeline.cli import main
from pipeline.progress import bar, training_note
from train.run.launch import Progress

TWO_RANKS = Placement(1, 1, 0, ranks=2, cpus_per_rank=1, gpus_per_rank=0)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_sentences(tmp_path)


def entail(*words: str | Path) -> int:
    return main([str(word) for word in words])


# ---- `train --plan`


def test_a_plan_is_printed_and_nothing_is_written(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model = large_model(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    words = ("train", "--model", model, "--documents", documents, "--out", tmp_path / "out", "--plan")
    words += ("--batch-size", "32")
    planned = ("--ranks", "8", "--gpu-gib", "80", "--row-tokens", "4096", "--activation-checkpointing")
    assert entail(*words, "--stage", "auto", *planned) == 0
    shown = capsys.readouterr().out
    for word in ("8,030,261,248 parameters", "weights", "logits", "sent a step", "stage 3", "80 GiB each"):
        assert word in shown
    assert "stage 2 is the smallest that fits" in shown
    assert entail(*words, "--stage", "0", "--ranks", "8", "--gpu-gib", "60") == 2
    assert "stage 0 on 8 ranks needs" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_stage_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str], documents: Path) -> None:
    assert entail("train", "--model", TINY, "--documents", documents, "--out", "x", "--stage", "4") == 2
    assert "--stage" in capsys.readouterr().err


def test_memory_is_the_containers_and_shared_by_the_ranks_of_a_node(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("1000\n")
    (tmp_path / "none").write_text("max\n")
    assert host_bytes(tmp_path / "limit") == 1000
    assert host_bytes(tmp_path / "none") == host_bytes(tmp_path / "absent") > 1000
    placement = dataclasses.replace(TWO_RANKS, ranks=3)
    assert share_of_nodes([(4, 900), (2, 800), (0, 1)], placement) == 300
    assert share_of_nodes([(2, 900), (1, 300)], placement) == 300


# ---- what is shown meanwhile


def test_the_note_tells_mfu_only_where_it_is_known() -> None:
    progress = Progress("r", 5, 10, 1.25, 900, 0.5)
    assert training_note(progress) == "loss 1.250  900 tokens/s"
    assert training_note(dataclasses.replace(progress, mfu=0.414)) == "loss 1.250  900 tokens/s  MFU 41%"


def test_lines_in_a_log_tell_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    clock = iter([0.0, 20.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: next(clock))
    with bar(Console(file=said), "train", 100, eta=True) as shown:
        shown.update(25, "loss 1")
    assert said.getvalue() == "  train: 25/100 loss 1  ETA 1 min\n"
