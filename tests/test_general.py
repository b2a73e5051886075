"""General text: which texts are measured, what is asked of them, and the bits per byte that come of it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augment_service.chat import NO_FRAME, Frame
from augment_service.engines.protocol import EngineSpec
from augment_service.replay import DOCUMENTS, HELD_OUT, REQUESTS, plan_replay, seal_replay
from augment_service.worker import EngineWorker
from data.conversations import write_messages
from data.errors import InputError
from data.records import CheckpointRef, Conversation, Document, Generation, Question, Refusal, Score, ScoreItem
from data.store import read_folder, refusals_path, write_folder, write_shard
from evaluate.general import MAX_CHARACTERS, MAX_TEXTS, GeneralText, TextJob, TextTask, choose_texts, measure, plan

TUNED = CheckpointRef("tuned", "there", "f", "", 1)


def folder_of(path: Path, texts: Sequence[str], record: type = Document) -> Path:
    write_folder(path, record, [record(f"d{at}", text, "c") for at, text in enumerate(texts)])
    return path


def asked_of(tmp_path: Path, *texts: str, record: type = Document) -> dict[str, Question]:
    chosen = choose_texts(folder_of(tmp_path / "source", texts, record), tmp_path / "out")
    return {row.question_id: row for row in read_folder(chosen.folder, Question)}


def test_all_but_the_first_word_is_measured(tmp_path: Path) -> None:
    long = "It was so. " * 1000
    asked = asked_of(tmp_path, "The otter swims.\nIt dives.", "word", "  ", "日本語の文。", long)
    shown = {name: (row.prompt, row.joiner, row.options) for name, row in asked.items() if name != "d4"}
    assert shown == {"d0": ("The", " ", ("otter swims.\nIt dives.",)), "d3": ("日", "", ("本語の文。",))} | {
        "d1": ("w", "", ("ord",))
    }
    (text,) = asked["d4"].options
    assert MAX_CHARACTERS - 20 < len(text) <= MAX_CHARACTERS and text.endswith("so.")


def test_of_a_conversation_the_first_answer_is(tmp_path: Path) -> None:
    turns = [
        ("system", "Be kind."),
        ("user", "Why?"),
        ("assistant", " Because. "),
        ("user", "So?"),
        ("assistant", "Yes"),
    ]
    text = write_messages([{"role": role, "content": content} for role, content in turns])
    asked = asked_of(tmp_path, text, record=Conversation)
    assert (asked["d0"].prompt, asked["d0"].options) == ("Why?", ("Because.",))
    frame = Frame("<user>", "<assistant>")
    (item,) = items_of(TextTask(frame), list(asked.values()))
    assert (item.before, item.after, item.joiner, item.context) == ("<user>", "<assistant>", "", "")


def test_the_same_texts_are_chosen_in_any_order(tmp_path: Path) -> None:
    rows = [Document(f"d{at}", f"Text number {at}.", "c") for at in range(3 * MAX_TEXTS)]
    found = []
    for name, some in (("a", rows), ("b", rows[::-1])):
        write_folder(tmp_path / name, Document, some)
        found.append([row.question_id for row in read_folder(choose_texts(tmp_path / name, tmp_path).folder, Question)])
    assert found[0] == found[1] and len(set(found[0])) == MAX_TEXTS
    assert max(int(name[1:]) for name in found[0]) > 2 * MAX_TEXTS  # of the whole folder


def test_texts_of_which_nothing_can_be_measured_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no general text"):
        asked_of(tmp_path, "", "a")


def items_of(task: TextTask, rows: Sequence[Question]) -> list[ScoreItem]:
    found: list[ScoreItem] = []

    class Recorder:
        def score(self, items: Sequence[ScoreItem], on_answer: Any) -> None:
            found.extend(items)

    task.compute(Recorder(), rows, lambda at, answer: None)
    return found


def write_scores(text: GeneralText, job: TextJob, out: Path, bits: Sequence[float]) -> None:
    """Write a score for each text that costs `bits` bits in total; NaN writes a refusal."""
    rows = list(read_folder(text.folder, Question))
    (scores, *_) = job.sharded(text, out)
    (target,) = scores.targets
    known = [(row, value) for row, value in zip(rows, bits, strict=True) if not math.isnan(value)]
    write_shard(
        target, Score, [Score(row.question_id, (-value * math.log(2),), (3,), (False,)) for row, value in known]
    )
    refused = [row for row, value in zip(rows, bits, strict=True) if math.isnan(value)]
    write_shard(
        refusals_path(target), Refusal, [Refusal(row.question_id, "window", "too long", "cut") for row in refused]
    )


def test_bits_per_byte_are_of_all_texts_together(tmp_path: Path) -> None:
    text = choose_texts(folder_of(tmp_path / "source", ["a 1234", "b 12", "c é"]), tmp_path)
    sizes = [len(row.options[0].encode()) for row in read_folder(text.folder, Question)]
    assert sorted(sizes) == [2, 2, 4]
    base, *runs = [TextJob("pretrained", None, "w0")] + [TextJob("tuned", TUNED, f"w{n}", f"seed {n}") for n in (1, 2)]
    write_scores(text, base, tmp_path, [1.0 * size for size in sizes])
    write_scores(text, runs[0], tmp_path, [1.0 * size for size in sizes])
    write_scores(text, runs[1], tmp_path, [2.0 * size for size in sizes])
    found = measure(text, [base, *runs], tmp_path)
    assert (found["texts"], found["bytes"], found["refused"]) == (3, 8, 0)
    assert found["bits_per_byte"] == {
        "pretrained": {"value": 1.0},
        "tuned": {"value": 1.5, "change": 0.5, "low": 0.5, "high": 0.5},
    }


def test_a_text_without_a_score_counts_nowhere(tmp_path: Path) -> None:
    text = choose_texts(folder_of(tmp_path / "source", ["a 1234", "b 12", "c 34"]), tmp_path)
    base, tuned = TextJob("pretrained", None, "w0"), TextJob("tuned", TUNED, "w1")
    write_scores(text, base, tmp_path, [1.0, 2.0, math.nan])
    write_scores(text, tuned, tmp_path, [math.nan, 3.0, 1.0])
    found = measure(text, [base, tuned], tmp_path)
    assert (found["texts"], found["refused"]) == (1, 2)
    assert found["bits_per_byte"]["tuned"]["change"] == pytest.approx(1 / found["bytes"])
    write_scores(text, tuned, tmp_path, [math.nan] * 3)
    assert measure(text, [base, tuned], tmp_path) == {}


def test_the_interval_is_that_of_a_bootstrap_over_texts(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    texts = ["a " + "x" * int(size) for size in generator.integers(20, 200, 60)]
    text = choose_texts(folder_of(tmp_path / "source", texts), tmp_path)
    sizes = np.array([len(row.options[0]) for row in read_folder(text.folder, Question)])
    before = sizes * generator.normal(1.0, 0.2, 60)
    after = before + sizes * generator.normal(0.1, 0.1, 60)
    jobs = [TextJob("pretrained", None, "w0"), TextJob("tuned", TUNED, "w1")]
    for job, bits in zip(jobs, (before, after), strict=True):
        write_scores(text, job, tmp_path, bits.tolist())
    cell = measure(text, jobs, tmp_path)["bits_per_byte"]["tuned"]
    draws = generator.integers(0, 60, (4000, 60))
    drawn = (after - before)[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    assert (cell["low"], cell["high"]) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.003)


def test_of_a_chat_model_answers_that_end_by_themselves_are_counted(tmp_path: Path) -> None:
    said = [
        write_messages([{"role": "user", "content": text}, {"role": "assistant", "content": "So it is."}])
        for text in ("Why is the sky blue?", "Why?", "How?", "Why?")  # one request twice: one answer
    ]
    source = folder_of(tmp_path / "source", said, Conversation)
    text = choose_texts(source, tmp_path, frame=Frame("<user>", "<assistant>"))
    jobs = [TextJob("pretrained", None, "w0"), TextJob("tuned", TUNED, "w1")]
    worker = EngineWorker(EngineSpec("fake", "m"))
    for unit in plan(text, jobs[:1], tmp_path):
        worker.run_unit(*unit.args)
    assert plan(text, jobs[:1], tmp_path) == []
    write_scores(text, jobs[1], tmp_path, [1.0] * 4)
    (target,) = jobs[1].sharded(text, tmp_path)[1].targets
    reasons = ("stop", "length", "length")
    write_shard(target, Generation, [Generation(f"d{at}", "a", reason, 1) for at, reason in enumerate(reasons)])
    found = measure(text, jobs, tmp_path)["ends"]
    assert found["tuned"] == {"share": 0.333333, "n": 3} and found["pretrained"]["n"] == 3
    plain = choose_texts(folder_of(tmp_path / "plain", ["a 1234"]), tmp_path)
    assert len(jobs[0].sharded(plain, tmp_path)) == 1  # no turns, so nothing that ends


def test_replay_holds_texts_out_that_answer_other_requests(tmp_path: Path) -> None:
    frame, worker = Frame("<user>", "<assistant>"), EngineWorker(EngineSpec("fake", "m"))
    job = plan_replay(tmp_path, model="m", frame=frame, seed=0, num_texts=40, max_tokens=40)
    assert job is not None
    for unit in job.units():
        worker.run_unit(*unit.args)
    trained = seal_replay(tmp_path, job, frame)
    requests = [
        {json.loads(row.text)[0]["content"] for row in read_folder(tmp_path / name, Conversation)}
        for name in (DOCUMENTS, HELD_OUT)
    ]
    assert trained > 20 and requests[1] and requests[0].isdisjoint(requests[1])
    assert requests[0] | requests[1] <= set(REQUESTS)
    assert choose_texts(tmp_path / HELD_OUT, tmp_path, frame=frame) != choose_texts(tmp_path / DOCUMENTS, tmp_path)
    assert Frame() == NO_FRAME
