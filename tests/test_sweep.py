"""Sweeps over checkpoints: what is damaged or unfinished is named and excluded, and the rest is scored."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_model

from data.errors import InputError, ResumableError
from data.weights import INDEX
from evaluate.conditions import NO_CONTEXT, Condition
from evaluate.fanout import ScoreJob, Suite
from pipeline.cli import main
from pipeline.commands import CONSOLE
from pipeline.sections import Cluster, Engine
from pipeline.stages.evaluate import exclude_failed, find_checkpoints, raise_excluded
from pipeline.stages.resources import Setting
from pipeline.workspace import Workspace
from train.engine.checkpoint import work_folder

QUESTIONS = [
    {"id": f"q{i}", "prompt": f"w{i} w{i + 1}", "options": ["w1", "w2 w3"], "answer": 0, "split": "s"} for i in range(4)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that another program could have written: "a", "b", "c"."""
    home = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abc"):
        make_model(home / name, seed, tied=True)
    return home


@pytest.fixture
def sweep(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "sweep"))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def report_of(out: Path) -> dict:
    return json.loads((out / "report" / "report.json").read_text())


def spoil(folder: Path) -> None:
    """Weights that are not numbers."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def test_one_bad_checkpoint_of_three_is_excluded_by_the_engines(
    sweep: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(sweep / "b")
    words = ["evaluate", "--suite", str(suite), "--model", str(sweep / "a"), "--checkpoints", str(sweep)]
    assert main([*words, "--engines", "1", "--out", str(tmp_path / "out")]) == 2
    report, shown = report_of(tmp_path / "out"), capsys.readouterr()
    assert set(report["suites"]["questions"]["s"]) == {"base", "a", "c"}
    assert "finite" in report["left_out"]["questions"]["b"]
    assert "finite" in (tmp_path / "out" / "report" / "report.html").read_text()
    assert "finite" in shown.err and str(sweep / "b") in shown.err


def test_damaged_and_unfinished_checkpoints_are_named_and_the_rest_is_scored(
    sweep: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(sweep / "b")
    (sweep / ".d.unfinished").mkdir()
    (sweep / "notes.txt").touch()
    words = ["evaluate", "--suite", str(suite), "--engine", "fake", "--engines", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--checkpoints", *map(str, sorted(sweep.glob("[!.]*"))), str(sweep / "d")]) == 2
    report, shown = report_of(tmp_path / "out"), capsys.readouterr()
    assert set(report["suites"]["questions"]["s"]) == {"a", "c"}
    assert set(report["left_out"]["questions"]) == {"b", "d", "notes.txt"}
    assert "2 checkpoints" in shown.err and "truncated" in shown.err


@pytest.mark.parametrize("pattern", ["{sweep}", "{sweep}/*", "{sweep}/[a-d]"])
def test_a_folder_or_a_pattern_stands_for_its_checkpoints(sweep: Path, pattern: str) -> None:
    (sweep / "logs").mkdir()
    refs, damaged, unfinished = find_checkpoints([pattern.format(sweep=sweep)])
    assert [(ref.name, ref.base) for ref in refs] == [("a", ""), ("b", ""), ("c", "")]
    assert len({ref.fingerprint for ref in refs}) == 3
    assert not damaged and not unfinished


def test_what_is_being_written_is_skipped_by_name(sweep: Path) -> None:
    work_folder(sweep / "a").mkdir()  # a run that writes over it
    (sweep / "b" / INDEX).write_text(json.dumps({"weight_map": {"x": "model.safetensors", "y": "later.safetensors"}}))
    refs, damaged, unfinished = find_checkpoints([str(sweep)])
    assert [ref.name for ref in refs] == ["c"]
    assert set(unfinished) == {"a", "b"} and "later.safetensors" in unfinished["b"]
    assert not damaged
    with pytest.raises(InputError, match="no finished checkpoint"):
        find_checkpoints([str(sweep / "b")])


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": "a", "base": "b", "num_steps": "many"}'])
def test_a_damaged_record_of_a_checkpoint_is_excluded(sweep: Path, content: str) -> None:
    (sweep / "b" / "checkpoint.json").write_text(content)
    refs, damaged, _ = find_checkpoints([str(sweep)])
    assert [ref.name for ref in refs] == ["a", "c"]
    assert damaged["b"].where.endswith("checkpoint.json")


def test_what_was_never_there_ends_the_command(sweep: Path) -> None:
    for wrong in ("none", "none*"):
        with pytest.raises(InputError, match="no folder matches"):
            find_checkpoints([str(sweep / "a"), str(sweep / wrong)])
    with pytest.raises(InputError, match="twice"):
        find_checkpoints([str(sweep / "a"), str(sweep)])
    truncate(sweep / "a")
    with pytest.raises(InputError, match="truncated"):
        find_checkpoints([str(sweep / "a")])


def test_the_cause_decides_the_exit_code() -> None:
    bad, failed = InputError("bad", where="a", hint="fix"), ResumableError("crashed")
    raise_excluded({})
    for errors, kind in (({"a": bad}, InputError), ({"a": bad, "b": bad}, InputError), ({"a": bad, "b": failed}, None)):
        with pytest.raises(kind or ResumableError, match="bad"):
            raise_excluded(errors)


def test_weights_that_failed_are_excluded_in_every_context() -> None:
    suite, setting = Suite("s", Path("questions")), Setting(Workspace(Path("none")), CONSOLE, Engine(), Cluster(), 0)
    conditions = [Condition(name, name[0], NO_CONTEXT) for name in ("a", "a+all", "b")]
    jobs = [ScoreJob(suite, "", condition, None, f"key {condition.weights}") for condition in conditions]
    done, errors = exclude_failed(setting, jobs, {}, {"key a": ResumableError("crashed")})
    assert [job.condition.name for job in done] == ["b"] and set(errors) == {"a"}
    with pytest.raises(ResumableError, match="crashed"):
        exclude_failed(setting, jobs[:2], {}, {"key a": ResumableError("crashed")})
