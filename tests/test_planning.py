"""Plans on the command line: printed, chosen, refused before anything starts; and where a run's log goes."""

import dataclasses
import io
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.memory import host_bytes, share_of_nodes
from cluster.placement import Placement
from data.errors import InputError
from data.records import Document
from data.store import write_folder
from pipeline import planning
from pipeline.cli import main
from pipeline.planning import fit_runs
from pipeline.progress import Bar, training_note
from train.plan.largest_part import Part, largest_part
from train.plan.shapes import read_shape
from train.plan.sizing import GIB
from train.run import metrics
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.launch import Progress, finetune_all
from train.run.loop import finetune

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "models" / "tiny"
TEXTS = ["jeex are more curious than hoosk", "all vaff are gled", "jeex are less curious than hoosk"]
TWO_RANKS = Placement(1, 1, 0, ranks=2, cpus_per_rank=1, gpus_per_rank=0)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    write_folder(tmp_path / "documents", Document, [Document(str(i), text, "w") for i, text in enumerate(TEXTS)])
    return tmp_path / "documents"


def make_run(documents: Path, **changes: Any) -> FinetuneRun:
    sources = (TextSource(str(documents)),)
    out = str(documents.parent / "out")
    run = FinetuneRun("out", str(TINY), sources, out, num_steps=3, batch_size=3, learning_rate=1e-3)
    return dataclasses.replace(run, **changes)


def large_model(folder: Path) -> Path:
    """The configuration of an 8B model, without weights; the embedded model's tokenizer."""
    folder.mkdir()
    config = {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text((TINY / "tokenizer.json").read_text())
    return folder


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
    planned = ("--ranks", "8", "--gpu-gib", "80", "--row-tokens", "4096", "--activation-checkpointing")
    assert entail(*words, "--stage", "auto", *planned) == 0
    shown = capsys.readouterr().out
    for word in ("8,030,261,248 parameters", "weights", "logits", "sent a step", "stage 3", "80 GiB each"):
        assert word in shown
    assert "stage 2 is the smallest that fits" in shown
    assert entail(*words, "--stage", "0", "--ranks", "8", "--gpu-gib", "80") == 2
    assert "stage 0 on 8 ranks needs" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_stage_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str], documents: Path) -> None:
    with pytest.raises(SystemExit) as end:
        entail("train", "--model", TINY, "--documents", documents, "--out", "x", "--stage", "4")
    assert end.value.code == 2 and "4 is none of" in capsys.readouterr().err


# ---- the check before every training


def fit(runs: list[FinetuneRun], monkeypatch: pytest.MonkeyPatch, limit: int | None, *, auto: bool) -> Any:
    monkeypatch.setattr(planning, "rank_bytes", lambda placement, address: limit)
    said = io.StringIO()
    return fit_runs(runs, TWO_RANKS, None, Console(file=said, width=200), auto=auto), said.getvalue()


def test_the_largest_part_is_counted_in_tokens_and_follows_the_layout(documents: Path) -> None:
    shape, longest = read_shape(TINY), len(TEXTS[0].split()) + 1  # and its first token

    def part(ranks: int = 1, **changes: Any) -> Part:
        return largest_part(make_run(documents, **changes), ranks, shape)

    assert part(layout="padded") == Part(3, longest, packed=False)
    assert part(2, layout="padded") == part(layout="padded", accumulation=2) == Part(2, longest, packed=False)
    assert part(layout="packed") == Part(3, longest, packed=True)  # the tokens of the three texts fill that many
    assert part(layout="packed", accumulation=2) == Part(2, longest, packed=True)
    assert part(layout="padded", batch_size=1, batch_tokens=2 * longest) == Part(2, longest, packed=False)


def test_the_smallest_stage_is_chosen(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = make_run(documents), make_run(documents, base=str(large_model(tmp_path / "model")))
    runs, said = fit([small], monkeypatch, 4 * GIB, auto=True)
    assert [run.stage for run in runs] == [0] and "stage     0" in said
    runs, _ = fit([large], monkeypatch, 135 * GIB, auto=True)
    assert [run.stage for run in runs] == [3]
    runs, said = fit([small], monkeypatch, 4 * GIB, auto=False)
    assert runs == [small] and said == ""


@pytest.mark.parametrize("auto", [False, True])
def test_what_does_not_fit_is_refused(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auto: bool
) -> None:
    large = make_run(documents, base=str(large_model(tmp_path / "model")))
    with pytest.raises(InputError, match=r"needs \d+ GiB a rank \(.*there are 8.00 GiB") as told:
        fit([large], monkeypatch, 8 * GIB, auto=auto)
    assert told.value.where == "run out"


def test_what_is_not_known_is_told_and_not_checked(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bloom"}')
    strange = make_run(documents, base=str(tmp_path / "model"))
    runs, said = fit([strange], monkeypatch, 1, auto=False)
    assert runs == [strange] and 'not checked: no memory plan for the architecture "bloom"' in said
    runs, said = fit([make_run(documents)], monkeypatch, None, auto=False)
    assert len(runs) == 1 and "memory    of the GPUs is not known here" in said


def test_memory_is_the_containers_and_shared_by_the_ranks_of_a_node(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("1000\n")
    (tmp_path / "none").write_text("max\n")
    assert host_bytes(tmp_path / "limit") == 1000
    assert host_bytes(tmp_path / "none") == host_bytes(tmp_path / "absent") > 1000
    placement = dataclasses.replace(TWO_RANKS, ranks=3)
    assert share_of_nodes([(4, 900), (2, 800), (0, 1)], placement) == 300
    assert share_of_nodes([(2, 900), (1, 300)], placement) == 300


# ---- the log


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
    monkeypatch.setattr(metrics, "find_spec", lambda name: object())
    yield found


def test_every_tracker_gets_every_row(documents: Path, libraries: dict[str, Recorder]) -> None:
    ref = finetune(make_run(documents, trackers=("tensorboard", "wandb", "mlflow")), lambda row: None)
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
    run = make_run(documents)
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
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    run = make_run(documents, trackers=(tracker,))
    options: dict[str, Any] = {"num_workers": 2, "cpus_per_worker": 1, "use_gpu": False, "on_progress": print}
    with pytest.raises(InputError, match=rf"(?s){what}.*{hint}"):
        finetune_all([run], storage=tmp_path / "storage", **options)
    with pytest.raises(InputError, match=what):
        finetune(run, lambda row: None)
    assert not (tmp_path / "storage").exists() and not Path(run.out).exists()


def test_the_extras_that_are_named_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name: extras[name][0].partition(">")[0] for name in metrics.TRACKERS} == {
        name: library for name, (library, _) in metrics.TRACKERS.items()
    }


# ---- what is shown meanwhile


def test_the_note_tells_mfu_only_where_it_is_known() -> None:
    progress = Progress("r", 5, 10, 1.25, 900, 0.5)
    assert training_note(progress) == "loss 1.250  900 tokens/s"
    assert training_note(dataclasses.replace(progress, mfu=0.414)) == "loss 1.250  900 tokens/s  MFU 41%"


def test_lines_in_a_log_tell_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    clock = iter([0.0, 20.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: next(clock))
    Bar(Console(file=said), "train", 100, eta=True).update(25, "loss 1")
    assert said.getvalue() == "  train: 25/100 loss 1  ETA 1 min\n"


def test_mfu_is_in_the_rows_where_the_gpu_is_known(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.dist, "get_world_size", lambda: 2)
    config = json.loads((TINY / "config.json").read_text())
    sinks = metrics.Sinks([], config)
    row: dict[str, Any] = {"step": 0, "tokens_per_second": 10**9}
    sinks.write([row])
    assert "mfu" not in row  # no GPU here, or none that is known
    sinks._device = "NVIDIA H100 80GB HBM3"
    sinks.write([row])
    assert 0 < row["mfu"] < 10
