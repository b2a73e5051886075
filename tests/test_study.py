"""The whole way, with real Ray, vLLM and DeepSpeed: a small study, interrupted and not, and what it refuses."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = """
--data.reversals.worlds 1 --data.reversals.facts 8 --data.syllogisms.worlds 1 --data.syllogisms.syllogisms 6
--data.reversal-curse.worlds 1 --data.reversal-curse.people-per-group 4 --data.semantic.worlds 1
--data.semantic.categories 16 --data.process.worlds 1 --data.process.functions 16 --train.steps 60 --train.batch-size 16
""".split()
CONDITIONS = {"pretrained", "icl", "finetuned", "rephrased", "augmented"}
# Two suites and two arms: what starting again, stopping and resuming need.
TWO = """
study = "two"
model = "models/tiny"
[data.reversals]
worlds = 1
facts = 8
[data.syllogisms]
worlds = 1
syllogisms = 6
[engine]
engines = 1
[train]
steps = 20
batch_size = 8
[train.arms]
finetuned = []
augmented = ["local", "global"]
"""


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", *(words or ("demo", *SMALL)), "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(out: Path, *words: str) -> tuple[int, str]:
    process = start(out, *words)
    text, _ = process.communicate(timeout=900)
    return process.returncode, text


def read_report(out: Path) -> dict:
    return json.loads((out / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "whole"
    code, text = finish(out)
    assert code == 0, text
    return out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "two.toml"
    path.write_text(TWO)
    return str(path)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    out = tmp_path_factory.mktemp("study") / "two"
    code, text = finish(out, "run", recipe)
    assert code == 0, text
    return out


def test_the_report_shows_every_condition_and_keeps_the_contract(whole: Path) -> None:
    report = read_report(whole)
    assert set(report["suites"]) == {"reversals", "syllogisms", "reversal-curse", "semantic", "process"}
    for suite in report["suites"].values():
        for split in suite.values():
            assert set(split) == CONDITIONS
            for cell in split.values():
                assert {"accuracy", "low", "high", "n", "chance"} <= set(cell)
                assert cell["low"] <= cell["accuracy"] <= cell["high"]
    for name in ("report.html", "accuracy.png", "losses.png"):
        assert (whole / "report" / name).stat().st_size > 1000
    audit = report["audit"]["reversals"]
    assert audit["verbatim_in_documents"] == 0 and audit["missing_requirements"] == 0
    assert audit["methods"]["local/reverse"]["true"] > 0


def test_the_effect_shows_even_in_the_small(whole: Path) -> None:
    reversal = read_report(whole)["suites"]["reversals"]["reversal"]
    assert reversal["icl"]["accuracy"] - reversal["finetuned"]["accuracy"] > 0.3
    assert reversal["augmented"]["accuracy"] - reversal["finetuned"]["accuracy"] > 0.3


def test_the_same_command_again_repeats_nothing(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.arrow")}
    weights = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    code, text = finish(whole)
    assert code == 0, text
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*.arrow")}
    assert weights == {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}


@pytest.mark.timeout(900)  # with its fixture two studies
def test_other_operational_settings_and_another_arm_retrain_nothing(two: Path, recipe: str, tmp_path: Path) -> None:
    """Changed keys that decide no result find all finished runs; a new arm trains alone."""
    out = shutil.copytree(two, tmp_path / "two", symlinks=True)
    before = {path.relative_to(out): path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    operational = ("--train.stall-seconds", "999", "--train.accumulation", "2", "--train.ranks-per-run", "0")
    operational += ("--train.stage", "auto", "--train.keep-last", "3", "--engine.engines", "2")
    code, text = finish(out, "run", recipe, *operational, "--train.arms.reversed", "local/reverse")
    assert code == 0, text
    after = {path.relative_to(out): path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert before.items() <= after.items()
    assert len(after) == len(before) * 3 // 2
    shown = set(read_report(out)["suites"]["reversals"]["reversal"])
    assert shown == {"pretrained", "icl", "finetuned", "augmented", "reversed"}


def test_the_command_in_the_report_runs_as_printed(whole: Path) -> None:
    words = shlex.split(read_report(whole)["command"])
    assert words[:2] == ["entail", "demo"]
    done = subprocess.run([sys.executable, "-m", "pipeline", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(900)  # four starts of Ray and the engines
def test_a_study_killed_in_every_stage_ends_with_the_same_report(two: Path, recipe: str, tmp_path: Path) -> None:
    """Kill -9 as soon as a stage has left its first trace, for three stages in turn; then to the end."""
    for trace in ("augment/parts/*.arrow", "train/*/checkpoint.json", "scores/*"):
        process = start(tmp_path, "run", recipe)
        seen = len(list(tmp_path.glob(trace)))
        deadline = time.monotonic() + 400
        while process.poll() is None and len(list(tmp_path.glob(trace))) == seen:
            assert time.monotonic() < deadline, f"no {trace} appeared"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not (tmp_path / "report").exists()
    code, text = finish(tmp_path, "run", recipe)
    assert code == 0, text
    timeless = [
        {key: value for key, value in read_report(out).items() if key not in ("wall_seconds", "stages", "command")}
        for out in (two, tmp_path)
    ]
    assert timeless[0] == timeless[1]


def test_nothing_is_left_running_after_a_killed_study(tmp_path: Path) -> None:
    process = start(tmp_path)
    link = tmp_path / "logs" / "ray"
    while not link.is_symlink():
        assert process.poll() is None
        time.sleep(0.1)
    session = link.readlink().parent.name  # stands in the command line of all of Ray's own processes
    time.sleep(8)  # the engines are starting
    assert _processes_naming(session)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 90
    while _processes_naming(session):
        assert time.monotonic() < deadline, _processes_naming(session)
        time.sleep(0.5)


def _processes_naming(text: str) -> list[str]:
    """Command lines of the processes that name `text` in them or in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_text(), (folder / "environ").read_text()
        except (OSError, UnicodeDecodeError):  # gone, or not ours to read
            continue
        if text in command + environment:
            found.append(command.replace("\0", " ")[:200])
    return found
