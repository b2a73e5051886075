"""The stages as commands of their own, one after another on the embedded model, with the real components."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from pipeline.cli import main

pytestmark = pytest.mark.timeout(900)  # a fixture runs three commands, and other tests run beside it
ROOT = Path(__file__).parent.parent
TINY = ("--model", "models/tiny")
ONE = ("--engines", "1")  # starts faster than two


def entail(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)


def succeed(*words: str | Path) -> str:
    done = entail(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_report(folder: Path) -> dict:
    return json.loads((folder / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, its augmentations and a checkpoint that was trained on both."""
    root = tmp_path_factory.mktemp("commands")
    documents = ("--documents", root / "set")
    succeed("data", "make", "reversals", "--lexicon", "tiny", "--out", root / "set", "--worlds", "1", "--facts", "8")
    succeed("augment", *documents, *TINY, "--methods", "local", "--teacher-top-k", "8", "--out", root / "wrote")
    short = ("--steps", "80", "--batch-size", "16")
    succeed("train", *documents, *TINY, "--augmentations", root / "wrote", *short, "--out", root / "tuned [v2]")
    return root


def test_augmentations_are_an_arrow_folder(made: Path) -> None:
    rows = datasets.load_from_disk(str(made / "wrote" / "augmentations"))
    assert {"text", "method", "sources", "verdict", "support"} <= set(rows.column_names)
    assert set(rows["method"]) == {"local/reverse", "local/rephrase"}
    ids = [row["doc_id"] for row in datasets.load_from_disk(str(made / "set" / "documents"))]
    assert all(set(sources) <= set(ids) for sources in rows["sources"])


@pytest.fixture(scope="module")
def scored(made: Path) -> dict:
    """The base model and the checkpoint in one report, with and without documents."""
    suite = ("--suite", made / "set", *TINY, "--checkpoints", made / "tuned [v2]")
    contexts = ("--contexts", "none,all,required,sample:4", "--repeats", "2")
    succeed("evaluate", *suite, *contexts, *ONE, "--out", made / "scored")
    return read_report(made / "scored")


def test_base_and_checkpoint_stand_in_one_report(scored: dict) -> None:
    reversal = scored["suites"]["reversals"]["reversal"]
    weights = ("base", "tuned [v2]")
    assert set(reversal) == {w + c for w in weights for c in ("", "+all", "+required", "+sample:4")}
    assert reversal["base"]["accuracy"] < 0.6 < 0.7 < reversal["tuned [v2]"]["accuracy"]
    assert reversal["base+required"]["accuracy"] > 0.7
    assert reversal["base+sample:4"]["accuracy"] < reversal["base+all"]["accuracy"]
    assert "tuned [v2]-base" in scored["differences"]["reversals"]["reversal"]


def test_an_evaluation_counts_its_own_time(scored: dict) -> None:
    assert scored["stages"]["score"] > 0
    assert scored["wall_seconds"] >= scored["stages"]["score"]


def test_the_command_in_the_report_runs_as_printed(made: Path, scored: dict) -> None:
    words = shlex.split(scored["command"])
    assert words[0] == "entail"
    before = {path: path.stat().st_mtime_ns for path in (made / "scored" / "scores").rglob("*.arrow")}
    succeed(*words[1:])
    assert before == {path: path.stat().st_mtime_ns for path in (made / "scored" / "scores").rglob("*.arrow")}


def test_a_student_of_the_teacher_in_context_answers_as_well(made: Path) -> None:
    """No token of an inference is a label here."""
    teacher = ("--teacher", made / "wrote", "--steps", "80", "--batch-size", "16", "--ranks", "1")
    succeed("train", "--documents", made / "set", *TINY, *teacher, "--out", made / "distilled")
    succeed("evaluate", "--suite", made / "set", "--checkpoints", made / "distil*", *ONE, "--out", made / "judged")
    assert read_report(made / "judged")["suites"]["reversals"]["reversal"]["distilled"]["accuracy"] > 0.7


def test_further_methods_keep_what_is_there(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "wrote", tmp_path / "wrote")
    before = datasets.load_from_disk(str(tmp_path / "wrote" / "augmentations"))
    words = ("--documents", made / "set", *TINY, "--methods", "local,global", "--out", tmp_path / "wrote")
    plan = succeed("augment", *words, "--plan")
    assert json.loads((tmp_path / "wrote" / "plan.json").read_text())["answered"] == len(set(before["prompt_id"])), plan
    succeed("augment", *words, *ONE)
    after = datasets.load_from_disk(str(tmp_path / "wrote" / "augmentations"))
    assert set(before["augmentation_id"]) < set(after["augmentation_id"])
    assert {method.partition("/")[0] for method in after["method"]} == {"local", "global"}


def test_a_dry_run_on_fake_engines(made: Path, tmp_path: Path) -> None:
    fake = ("--engine", "fake", "--engines", "1")
    succeed("augment", "--documents", made / "set", "--model", "anything", *fake, "--out", tmp_path / "wrote")
    rows = datasets.load_from_disk(str(tmp_path / "wrote" / "augmentations"))
    assert len(set(rows["prompt_id"])) == 8 * 3 * 2
    suite = ("--suite", made / "set", "--model", "anything", "--contexts", "none,all")
    succeed("evaluate", *suite, *fake, "--out", tmp_path / "scored")
    assert set(read_report(tmp_path / "scored")["suites"]["reversals"]["trained"]) == {"base", "base+all"}


BAD = {
    "unknown method": "augment --documents {set} --model models/tiny --methods locla --out {out}",
    "no documents": "augment --documents {set}/nothing --model models/tiny --out {out}",
    "no samples": "augment --documents {set} --model models/tiny --samples 0 --out {out}",
    "broken prompt book": "augment --documents {set} --model models/tiny --prompts {bad} --out {out}",
    "no prompt book": "augment --documents {set} --model models/tiny --prompts {out}/none.toml --out {out}",
    "unknown context": "augment --documents {set} --model models/tiny --context some --out {out}",
    "unused context": "augment --documents {set} --model models/tiny --methods local --context sample:2 --out {out}",
    "address of a service": "augment --documents {set} --model models/tiny --service x --address h:1 --out {out}",
    "repeats of nothing": "evaluate --suite {set} --model models/tiny --contexts all --repeats 3 --out {out}",
    "no checkpoint": "evaluate --suite {set} --checkpoints nowhere/* --out {out}",
    "nothing to evaluate": "evaluate --suite {set} --out {out}",
    "unknown condition": "evaluate --suite {set} --model models/tiny --contexts icl --out {out}",
    "a folder of nothing as suite": "evaluate --suite {empty} --model models/tiny --out {out}",
    "no suite": "evaluate --suite {out}/none.jsonl --model models/tiny --out {out}",
    "binary suite": "evaluate --suite {bad} --model models/tiny --out {out}",
    "one checkpoint twice": "evaluate --suite {set} --checkpoints {tuned} {tuned}/../{name} --out {out}",
    "no model": "train --documents {set} --model models/none --out {out}",
    "model with a space": "train --documents {set} --model 'foo/bar baz' --out {out}",
    "two budgets": "train --documents {set} --model models/tiny --steps 3 --epochs 1 --out {out}",
    "flag without its purpose": "train --documents {set} --model models/tiny --gpu-gib 80 --out {out}",
    "current folder": "train --documents {set} --model models/tiny --steps 3 --out .",
    "mix of nothing": "train --documents {set} --model models/tiny --mix replay=1 --out {out}",
    "another set in the folder": "data make syllogisms --seed 0 --out {set}",
    "another seed in the folder": "data make reversals --lexicon tiny --worlds 1 --facts 8 --seed 5 --out {set}",
    "file as output": "augment --documents {set} --model models/tiny --out {bad}",
    "bad port": "serve up --model models/tiny --port 99999999",
    "service that is not up": "augment --documents {set} --model models/tiny --service none-such --out {out}",
    "endpoint that is not there": "augment --documents {set} --model m --url ftp://x --out {out}",
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_message(
    made: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    bad, empty, tuned = tmp_path / "bad.toml", tmp_path / "empty", made / "tuned [v2]"
    bad.write_bytes(b"\xff\xfe[local.mine\n")
    empty.mkdir()
    names = {"set": made / "set", "out": tmp_path / "out", "bad": bad, "empty": empty, "name": shlex.quote(tuned.name)}
    words = shlex.split(BAD[case].format(**names, tuned=shlex.quote(str(tuned))))
    before = sorted(made.rglob("*"))
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("entail: ") and "where:" in message and "hint:" in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("out/*"))
    assert sorted(made.rglob("*")) == before


def test_a_half_written_folder_is_not_read_as_a_whole_one(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "set"
    shutil.copytree(made / "set", broken)
    for name in ("manifest.json", "state.json"):  # both are written last
        (broken / "documents" / name).unlink()
    for words in (
        ("augment", "--documents", str(broken / "documents"), *TINY, "--out", str(tmp_path / "out")),
        ("augment", "--documents", str(broken), *TINY, "--out", str(tmp_path / "out")),
        ("evaluate", "--suite", str(broken), *TINY, "--contexts", "all", "--out", str(tmp_path / "out")),
        ("train", "--documents", str(broken), *TINY, "--steps", "1", "--out", str(tmp_path / "out")),
        ("data", "export", str(broken), "--to", "jsonl", "--out", str(tmp_path / "out")),
    ):
        assert main(words) == 2, words
        assert "hint:" in capsys.readouterr().err
