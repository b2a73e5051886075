"""An exported GGUF is asked what its checkpoint is asked: the same questions, answered in writing by both.

Writes `check/` into the export: the checkpoint's answers, llama.cpp's log, and `answers.jsonl` with both.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from data.errors import InputError
from data.records import Question
from data.store import read_folder, write_text
from evaluate.conditions import NO_CONTEXT
from evaluate.fanout import ScoreJob, open_suite
from evaluate.written import begins_with, collect_written, first_line, plan_written, prompt_of, sample_jobs
from pipeline.models import find_model
from pipeline.sections import Cluster, Engine, Scoring
from pipeline.stages import evaluate
from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, do_units
from pipeline.workspace import Workspace

CHECK, ANSWERS, LOG = "check", "answers.jsonl", "llama.log"
NUM_ASKED = 20  # questions of each split
PACKAGE = "xllamacpp"


def check_before(suite: Path) -> None:
    """Raise InputError where llama.cpp cannot be asked, or the suite cannot be read: a conversion takes long."""
    if importlib.util.find_spec(PACKAGE) is None:
        what = f"the package {PACKAGE} is not installed, which asks a GGUF model"
        raise InputError(what, where="--suite", hint=f"pip install {PACKAGE}, or leave --suite out")
    with TemporaryDirectory() as work:
        open_suite(suite, Path(work))


def compare(checkpoint: Path, base: str, gguf: Path, suite: Path, console: Console) -> None:
    """Ask both, write the answers beside the GGUF, and report how many are right by each, and how many are the same.

    Raises InputError for a suite that cannot be read, and where llama.cpp fails.
    """
    out = gguf.parent / CHECK
    setting = Setting(Workspace(out), console, Engine(), Cluster(), 0)
    refs, _, _ = evaluate.find_checkpoints([str(checkpoint)])
    setting = evaluate.with_adapters(setting, refs)
    model = find_model(base or evaluate.resident_of(refs), setting.engine)
    frame = evaluate.question_frame(setting, model, Scoring())
    opened = open_suite(suite, out)
    planned = evaluate.plan_suite(setting, Scoring(), opened, [NO_CONTEXT], refs, model, frame)
    jobs = sample_jobs(planned, NUM_ASKED, out, seed=0)
    lazy = LazyCluster(setting, models=[model.path, str(checkpoint)])
    with lazy, LazyEngines(setting, model, lazy) as engines:
        do_units(setting, engines, plan_written(jobs, out, model.book, seed=0), "ask the checkpoint")
    own = {name: text for (_, _, name), text in collect_written(jobs, out, model.book, seed=0).texts.items()}
    asked = [row for row in read_folder(jobs[0].suite.questions, Question) if row.question_id in own]
    _compare(asked, own, _ask(gguf, asked, jobs[0], out / LOG), out, setting)


def _ask(gguf: Path, asked: Sequence[Question], job: ScoreJob, log: Path) -> list[str]:
    prompts = [prompt_of(question, job.frame) for question in asked]
    lines = [json.dumps({"prompt": one.before + one.text + one.after, "max_tokens": one.max_tokens}) for one in prompts]
    command = [sys.executable, "-m", "pipeline.ask_gguf", str(gguf)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        done = subprocess.run(command, input="\n".join(lines), stdout=subprocess.PIPE, stderr=errors, text=True)
    # llama.cpp logs to stdout, too, as it pleases; an answer is a JSON string.
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode or len(answers) != len(asked):
        raise InputError("llama.cpp could not answer", where=str(gguf), hint=f"{log} says why")
    return answers


def _compare(asked: Sequence[Question], own: dict[str, str], other: Sequence[str], out: Path, setting: Setting) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt": question.prompt,
            "right": [question.options[index] for index in (question.answer, *question.also_right)],
            "checkpoint": own[question.question_id],
            "gguf": first_line(text),
        }
        for question, text in zip(asked, other, strict=True)
    ]
    write_text(out / ANSWERS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    right = [
        sum(any(begins_with(row[name], option) for option in row["right"]) for row in rows)
        for name in ("checkpoint", "gguf")
    ]
    equal = sum(row["checkpoint"] == row["gguf"] for row in rows)
    setting.say(
        "check",
        f"of {len(rows)} questions the checkpoint answers {right[0]}, the GGUF {right[1]}; "
        f"{equal} answers are the same: {out / ANSWERS}",
    )
