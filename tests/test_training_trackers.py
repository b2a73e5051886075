"""Trackers: where a run's log goes besides `metrics.jsonl`, and the MFU in its rows."""

import dataclasses
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_runs import ROOT, TINY, tiny_run, write_sentences

from data.errors import InputError
from train.run import trackers
from train.run.launch import finetune_all
from train.run.loop import finetune


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_sentences(tmp_path)


class Recorder:
    """Stands for any of the libraries: remembers what was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*words: Any, **options: Any) -> "Recorder":
            self.calls.append((name, words, options))
            return self

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(words, options) for called, words, options in self.calls if called == name]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Recorder]]:
    """Modules in place of the three libraries, none of which is needed to train."""
    found = {name: Recorder() for name in ("tensorboard", "wandb", "mlflow")}
    for name, recorder in found.items():
        module: Any = types.ModuleType(name)
        module.__getattr__ = recorder.__getattr__
        monkeypatch.setitem(sys.modules, name, module)
    board: Any = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = found["tensorboard"].SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    yield found


def test_every_tracker_gets_every_row(documents: Path, libraries: dict[str, Recorder]) -> None:
    ref = finetune(tiny_run(documents, trackers=("tensorboard", "wandb", "mlflow")), lambda row: None)
    rows = [json.loads(line) for line in (Path(ref.path) / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    losses = [row["loss"] for row in rows]
    scalars = [words for words, _ in libraries["tensorboard"].of("add_scalar")]
    assert [words for words in scalars if words[0] == "train/loss"] == [
        ("train/loss", loss, step) for step, loss in enumerate(losses)
    ]
    (((), opened),) = libraries["tensorboard"].of("SummaryWriter")
    assert opened["purge_step"] == 0 and Path(opened["log_dir"]).name == "tensorboard"
    for name, call in (("wandb", "log"), ("mlflow", "log_metrics")):
        logged = libraries[name].of(call)
        assert [(words[0]["loss"], options["step"]) for words, options in logged] == list(
            zip(losses, range(3), strict=True)
        )
    assert [name for name, _, _ in libraries["wandb"].calls][-1] == "finish"
    assert [name for name, _, _ in libraries["mlflow"].calls][-1] == "end_run"
    assert libraries["wandb"].of("init")[0][1]["config"]["learning_rate"] == 1e-3


def test_trackers_do_not_change_what_a_run_is(documents: Path, libraries: dict[str, Recorder]) -> None:
    run = tiny_run(documents)
    first = finetune(run, lambda row: None)
    assert finetune(dataclasses.replace(run, trackers=("wandb",)), lambda row: None) == first
    assert libraries["wandb"].calls == []  # it was finished


@pytest.mark.parametrize(
    ("tracker", "what", "hint"),
    [("wadnb", 'unknown tracker "wadnb"', "wandb"), ("wandb", "needs the package wandb", r"entail\[wandb\]")],
)
def test_a_tracker_that_is_not_there_is_told_before_anything_starts(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, what: str, hint: str
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    run = tiny_run(documents, trackers=(tracker,))
    options: dict[str, Any] = {"num_workers": 2, "cpus_per_worker": 1, "use_gpu": False, "on_progress": print}
    with pytest.raises(InputError, match=rf"(?s){what}.*{hint}"):
        finetune_all([run], storage=tmp_path / "storage", **options)
    with pytest.raises(InputError, match=what):
        finetune(run, lambda row: None)
    assert not (tmp_path / "storage").exists() and not Path(run.out).exists()


def test_the_extras_that_are_named_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name: extras[name][0].partition(">")[0] for name in trackers.TRACKERS} == {
        name: library for name, (library, _) in trackers.TRACKERS.items()
    }


def test_mfu_is_in_the_rows_where_the_gpu_is_known(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.dist, "get_world_size", lambda: 2)
    config = json.loads((TINY / "config.json").read_text())
    found = trackers.Trackers([], config)
    row: dict[str, Any] = {"step": 0, "tokens_per_second": 10**9}
    found.write([row])
    assert "mfu" not in row  # no GPU here, or none that is known
    found._device = "NVIDIA H100 80GB HBM3"
    found.write([row])
    assert 0 < row["mfu"] < 10
