"""The stages as commands of their own, one after another on the embedded model, with the real components."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

ROOT = Path(__file__).parent.parent


def entail(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, its augmentations and a checkpoint that was trained on both."""
    root = tmp_path_factory.mktemp("verbs")
    model, documents = ("--model", "models/tiny"), ("--documents", root / "set")
    short = ("--steps", "80", "--batch-size", "16")
    steps = (
        ("data", "make", "reversals", "--lexicon", "tiny", "--out", root / "set", "--worlds", "1", "--facts", "8"),
        ("augment", *documents, *model, "--methods", "local", "--out", root / "wrote"),
        ("train", *documents, *model, "--augmentations", root / "wrote", *short, "--out", root / "tuned"),
    )
    for words in steps:
        done = entail(*words)
        assert done.returncode == 0, done.stderr
    return root


def test_augmentations_are_an_arrow_folder(made: Path) -> None:
    rows = datasets.load_from_disk(str(made / "wrote" / "augmentations"))
    assert {"doc_id", "text", "method", "verdict"} <= set(rows.column_names)
    assert set(rows["method"]) == {"local/reverse", "local/rephrase"}


def test_a_checkpoint_answers_what_it_was_not_told(made: Path) -> None:
    done = entail("evaluate", "--suite", made / "set", "--checkpoints", made / "tun*", "--out", made / "scored")
    assert done.returncode == 0, done.stderr
    report = json.loads((made / "scored" / "report" / "report.json").read_text())
    assert report["suites"]["reversals"]["trained"]["finetuned"]["accuracy"] == 1.0
    assert report["suites"]["reversals"]["reversal"]["finetuned"]["accuracy"] > 0.7


def test_a_student_of_the_teacher_in_context_answers_as_well(made: Path) -> None:
    """What was written stays as it is, and is only taught; no token of an inference is a label here."""
    model, documents = ("--model", "models/tiny"), ("--documents", made / "set")
    written = {path: path.stat().st_mtime_ns for path in (made / "wrote" / "augmentations").iterdir()}
    teacher = ("--methods", "local", "--teacher-top", "8", "--out", made / "wrote")
    budget = ("--steps", "80", "--batch-size", "16")
    for words in (
        ("augment", *documents, *model, *teacher),
        ("train", *documents, *model, "--teacher", made / "wrote" / "teacher", *budget, "--out", made / "distilled"),
        ("evaluate", "--suite", made / "set", "--checkpoints", made / "distil*", "--out", made / "judged"),
    ):
        done = entail(*words)
        assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (made / "wrote" / "augmentations").iterdir()} == written
    report = json.loads((made / "judged" / "report" / "report.json").read_text())
    assert report["suites"]["reversals"]["reversal"]["finetuned"]["accuracy"] > 0.7


def test_other_settings_do_not_mix_with_finished_work(made: Path) -> None:
    words = ("augment", "--documents", made / "set", "--model", "models/tiny", "--methods", "global")
    done = entail(*words, "--out", made / "wrote")
    assert done.returncode == 2 and "other inputs or settings" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("augment", "--documents", "{set}", "--model", "models/tiny", "--methods", "locla"), "no augmentation method"),
        (("augment", "--documents", "{set}/nothing", "--model", "models/tiny"), "no Document rows"),
        (("evaluate", "--suite", "{set}", "--checkpoints", "nowhere/*"), "no folder matches"),
        (("evaluate", "--suite", "{set}", "--model", "models/tiny", "--conditions", "ilc"), "unknown condition"),
        (("train", "--documents", "{set}", "--model", "models/none"), "no model folder"),
    ],
)
def test_wrong_input_is_one_message(made: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = entail(*(word.replace("{set}", str(made / "set")) for word in words), "--out", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr and "hint" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
