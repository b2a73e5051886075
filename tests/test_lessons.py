"""What a teacher in context is asked about, and what its student is told: without an engine, and by the fake one."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import make_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from augment_service.augment import collect, write_prompts
from augment_service.distillation import LESSONS, TEACHER, collect_lessons, is_taught, write_lessons
from augment_service.engines.protocol import DistillationEngine, EngineSpec
from augment_service.engines.start import start_engine
from augment_service.methods import AugmentPlan
from augment_service.tokens import LessonTokens, TextReader
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import Augmentation, DistillationExample, Distribution, Document, Generation, Prompt, Refusal
from data.rendering import load_book
from data.store import is_sealed, read_folder, read_shard, write_folder, write_shard

BOOK = load_book(Path("models/tiny"))
SPEC = EngineSpec(kind="fake", model="none")


@pytest.fixture
def wrote(tmp_path: Path) -> Path:
    """Two worlds of which one kept an inference of each method, the last with its way to it, and the other none."""
    rows = [Document("d0", "doma are more shiny than ruli", "w0"), Document("d1", "zusu are shiny", "w1")]
    write_folder(tmp_path / "documents", Document, rows)
    units = write_prompts(tmp_path / "documents", tmp_path, BOOK, AugmentPlan(("local", "global"), 1, 0.7, 0))
    for unit in units:
        source, target = Path(str(unit.args[0])), Path(str(unit.args[1]))
        prompts = read_shard(source, Prompt)
        nothing = prompts[0].doc_id == "d1"
        texts = (f"doma are {at}, so  ruli are {at}" for at in range(len(prompts)))
        answers = [
            Generation(prompt.prompt_id, BOOK.nothing if nothing else text, "stop", 2)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        write_shard(target, Generation, answers)
    collect(tmp_path / "documents", tmp_path, BOOK, units, model="m")
    return tmp_path


def test_every_kept_inference_is_a_lesson_after_all_that_stood_before_it(wrote: Path) -> None:
    assert not is_taught(wrote, num_top=4)
    (unit,) = write_lessons(wrote, BOOK, num_top=4)
    kept = [row for row in read_folder(wrote / "augmentations", Augmentation) if row.verdict == "kept"]
    lessons = read_shard(Path(str(unit.args[0])), DistillationExample)
    assert [(row.text_id, row.text) for row in lessons] == [(row.augmentation_id, row.text) for row in kept]
    for lesson, row in zip(lessons, kept, strict=True):
        assert (lesson.context, lesson.num_top) == ("doma are more shiny than ruli\n---\n", 4)
        asked = f"{row.method.partition('/')[2]} : doma are more shiny than ruli =>"
        assert lesson.prompt.startswith(asked)
        way = lesson.prompt.removeprefix(asked)
        assert way == (f" doma are {lesson.text[-1]}, so" if row.method == "global/deduce" else "")


def test_the_worker_writes_distributions_that_are_sealed_once(wrote: Path) -> None:
    units = write_lessons(wrote, BOOK, num_top=3)
    worker = EngineWorker(SPEC)
    for unit in units:
        receipt = worker.teach_shard(*map(str, unit.args))
        assert (receipt.num_rows, receipt.num_refused) == (unit.num_rows, 0)
    assert not is_sealed(wrote / TEACHER)
    assert collect_lessons(wrote, units) == 0
    assert is_taught(wrote, num_top=3)
    lessons = [
        row for path in sorted((wrote / LESSONS).glob("*.arrow")) for row in read_shard(path, DistillationExample)
    ]
    taught = list(read_folder(wrote / TEACHER, Distribution))
    assert [row.text_id for row in taught] == [lesson.text_id for lesson in lessons]
    for row in taught:
        assert len(row.top_ids) == len(row.top_log_probs) == 3 * (len(row.token_ids) - 1)
    with pytest.raises(InputError, match="other inputs or settings"):
        is_taught(wrote, num_top=4)


def test_wrong_numbers_of_tokens_and_worlds_without_inferences_are_refused(wrote: Path) -> None:
    for wrong in (0, 21):
        with pytest.raises(InputError, match="choose 1 to 20"):
            is_taught(wrote, num_top=wrong)
    for path in (wrote / "augmentations").glob("*.arrow"):
        write_shard(path, Augmentation, [replace(row, verdict="empty") for row in read_shard(path, Augmentation)])
    with pytest.raises(InputError, match="no inference was kept"):
        write_lessons(wrote, BOOK, num_top=4)


def test_where_all_lessons_are_refused_nothing_is_sealed(wrote: Path) -> None:
    units = write_lessons(wrote, BOOK, num_top=3)
    worker = EngineWorker(replace(SPEC, window=8))
    for unit in units:
        assert worker.teach_shard(*map(str, unit.args)).num_rows == 0
    with pytest.raises(InputError, match="the model's window has 8"):
        collect_lessons(wrote, units)
    assert not is_sealed(wrote / TEACHER)


def test_an_endpoint_is_no_teacher(wrote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = EngineWorker(SPEC)
    assert isinstance(start_engine(SPEC), DistillationEngine)
    monkeypatch.setattr(worker, "_engine", object())
    (unit,) = write_lessons(wrote, BOOK, num_top=3)
    with pytest.raises(InputError, match="no teacher"):
        worker.teach_shard(*map(str, unit.args))


@pytest.mark.parametrize("start", [False, True])
def test_a_student_reads_the_text_between_its_start_and_its_end(tmp_path: Path, start: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path / "m", 0, tied=True))
    if start:
        tokenizer.bos_token = "w0"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="w0 $A", special_tokens=[("w0", 3)])
    reader = TextReader(tokenizer, window=9)
    lesson = DistillationExample("a", "w5 ", "w6 ", "w1 w2 w3", 2)
    fine, long, short, bare = reader.lessons(
        [
            lesson,
            replace(lesson, text="w1 w2 w3 w4 w5 w6 w7"),
            replace(lesson, text=""),
            replace(lesson, context="", prompt=""),
        ]
    )
    assert isinstance(fine, LessonTokens)
    ids = [tokenizer.convert_tokens_to_ids(word) for word in "w5 w6 w1 w2 w3".split()]
    begin = [tokenizer.bos_token_id] if start else []
    end = [tokenizer.eos_token_id]
    assert fine.row == begin + ids[2:] + end
    assert fine.prefix + fine.path == begin + ids
    assert len(fine.path) == (3 if start else 2)
    assert [row.kind for row in (long, short, bare) if isinstance(row, Refusal)] == ["window", "empty", "empty"]
