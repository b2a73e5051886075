"""Context distillation: what a teacher is asked, what its student reads; without an engine, and by the fake one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from augment_service.augment import AUGMENTATIONS, plan_augmentation, seal_augmentations
from augment_service.chat import NO_FRAME
from augment_service.contexts import ALL
from augment_service.distillation import TEACHER, DistillationTask, is_distilled, plan_distillation, seal_distillation
from augment_service.engines.protocol import EngineSpec, TokenEngine
from augment_service.engines.start import start_engine
from augment_service.jobs import ShardedJob
from augment_service.methods import AugmentPlan
from augment_service.tokens import ExampleTokens, TextReader
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import Augmentation, DistillationExample, Distribution, Document, Generation, Prompt, Refusal
from data.rendering import Template, load_book
from data.store import is_sealed, read_folder, read_shard, seal, write_folder, write_shard

BOOK = load_book(Path("models/tiny"))
SPEC = EngineSpec(kind="fake", model="none")


def write(self: Any, prompts: Sequence[Prompt], on_answer: Callable[[int, Generation], None]) -> None:
    """Nothing follows from "zusu"; else an inference, with its derivation where one is asked for."""
    texts = (
        BOOK.nothing if "zusu" in prompt.text else f"doma are {prompt.method[0]}, so  ruli are {prompt.method[-4:]}"
        for prompt in prompts
    )
    for at, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        on_answer(at, Generation(prompt.prompt_id, text, "stop", 2))


def run(jobs: Sequence[ShardedJob], worker: EngineWorker) -> None:
    for unit in [unit for job in jobs for unit in job.units()]:
        worker.run_unit(*unit.args)  # type: ignore[arg-type]


@pytest.fixture
def augmented(tmp_path: Path) -> Path:
    """Two corpora, of which one kept an inference by each method and the other none."""
    rows = [Document("d0", "doma are more shiny than ruli", "w0"), Document("d1", "zusu are shiny", "w1")]
    write_folder(tmp_path / "documents", Document, rows)
    plan = AugmentPlan(("local", "global"), 1, 0.7, 0)
    jobs = plan_augmentation(tmp_path / "documents", tmp_path, BOOK, plan, model="m", context=ALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augment_service.engines.fake.FakeEngine.generate", write)
        run(jobs, EngineWorker(SPEC))
    seal_augmentations(tmp_path / "documents", tmp_path, jobs)
    return tmp_path


def plan(out: Path, num_top: int = 4, **changes: Any) -> list[ShardedJob]:
    wanted = {"num_top": num_top, "model": "m", "context": ALL, "seed": 0} | changes
    return plan_distillation(out / "documents", out, BOOK, **wanted)


def kept_rows(out: Path) -> list[Augmentation]:
    return [row for row in read_folder(out / AUGMENTATIONS, Augmentation) if row.verdict == "kept"]


def test_every_kept_inference_is_an_example_after_all_that_preceded_it(augmented: Path) -> None:
    asked: list[DistillationExample] = []
    worker = EngineWorker(SPEC)
    distill = worker._engine.distill  # type: ignore[attr-defined]
    worker._engine.distill = lambda examples, on: asked.extend(examples) or distill(examples, on)  # type: ignore[attr-defined]
    run(plan(augmented), worker)
    kept = kept_rows(augmented)
    assert [(row.text_id, row.text) for row in asked] == [(row.augmentation_id, row.text) for row in kept]
    assert {row.method for row in kept} == {template.method for template in BOOK.select(["local", "global"])}
    for example, row in zip(asked, kept, strict=True):
        assert (example.context, example.num_top) == ("doma are more shiny than ruli\n---\n", 4)
        start = f"{row.method.partition('/')[2]} : doma are more shiny than ruli =>"
        assert example.prompt == start
        assert example.reasoning == (" doma are g, so" if row.method == "global/deduce" else "")


def test_the_worker_writes_distributions_that_are_sealed_once(augmented: Path) -> None:
    jobs = plan(augmented, 3)
    run(jobs, EngineWorker(SPEC))
    assert not is_distilled(augmented)
    assert seal_distillation(augmented, jobs) == 0
    assert is_distilled(augmented)
    found = list(read_folder(augmented / TEACHER, Distribution))
    assert [row.text_id for row in found] == [row.augmentation_id for row in kept_rows(augmented)]
    for row in found:
        assert len(row.top_ids) == len(row.top_log_probs) == 3 * (len(row.token_ids) - 1)
    with pytest.raises(InputError):
        plan(augmented, 4)


def test_a_prompt_that_was_another_one_is_refused(augmented: Path) -> None:
    path = next((augmented / AUGMENTATIONS).glob("*.arrow"))
    rows = read_shard(path, Augmentation)
    for change in ({"context_id": "another"}, {"template": "another"}, {"method": "local/another"}):
        write_shard(path, Augmentation, [replace(row, **change) for row in rows])
        seal(augmented / AUGMENTATIONS, Augmentation)
        with pytest.raises(InputError) as raised:
            run(plan(augmented), EngineWorker(SPEC))
        assert "inference" in raised.value.where


def test_without_inferences_there_is_nothing_to_distill(augmented: Path) -> None:
    for path in (augmented / AUGMENTATIONS).glob("*.arrow"):
        write_shard(path, Augmentation, [replace(row, verdict="empty") for row in read_shard(path, Augmentation)])
    seal(augmented / AUGMENTATIONS, Augmentation)
    jobs = plan(augmented)
    run(jobs, EngineWorker(SPEC))
    with pytest.raises(InputError) as raised:
        seal_distillation(augmented, jobs)
    assert raised.value.where == str(augmented / AUGMENTATIONS)


def test_where_all_examples_are_refused_nothing_is_sealed(augmented: Path) -> None:
    jobs = plan(augmented, 3)
    run(jobs, EngineWorker(replace(SPEC, window=8)))
    with pytest.raises(InputError, match="8"):
        seal_distillation(augmented, jobs)
    assert not is_sealed(augmented / TEACHER)


def test_an_endpoint_has_no_distributions(augmented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = EngineWorker(SPEC)
    assert isinstance(start_engine(SPEC), TokenEngine)
    monkeypatch.delattr(type(worker._engine), "distill")
    with pytest.raises(InputError):
        run(plan(augmented, 3), worker)


@pytest.mark.parametrize("start", [False, True])
def test_a_student_reads_the_text_between_its_start_and_its_end(tmp_path: Path, start: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path / "m", 0, tied=True))
    if start:
        tokenizer.bos_token = "w0"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="w0 $A", special_tokens=[("w0", 3)])
    reader = TextReader(tokenizer, window=9)
    example = DistillationExample("a", "w5 ", "w6 ", "w1 w2 w3", 2)
    fine, long, short, bare = reader.examples(
        [
            example,
            replace(example, text="w1 w2 w3 w4 w5 w6 w7"),
            replace(example, text=""),
            replace(example, context="", prompt=""),
        ]
    )
    assert isinstance(fine, ExampleTokens)
    ids = [tokenizer.convert_tokens_to_ids(word) for word in "w5 w6 w1 w2 w3".split()]
    begin = [tokenizer.bos_token_id] if start else []
    end = [tokenizer.eos_token_id]
    assert fine.row == begin + ids[2:] + end
    assert [*fine.prefix, *fine.path] == begin + ids
    assert len(fine.path) == (3 if start else 2)
    assert [row.kind for row in (long, short, bare) if isinstance(row, Refusal)] == ["window", "empty", "empty"]


def test_a_heading_in_the_prompt_is_the_one_of_the_document(tmp_path: Path) -> None:
    write_folder(tmp_path / "documents", Document, [Document("d", "It is heavy.", "w", "Otters")])
    template = Template(method="local/mine", text="{heading}: {sentence}", max_tokens=9)
    row = Augmentation("a", "w", template.method, ("d",), "It is heavy.", "x", "", "kept", 0.0, "stop", "m",
                       template.fingerprint, "", 0.0, 0)  # fmt: skip
    task = DistillationTask(
        {template.method: template}, {template.method: NO_FRAME}, {}, 2, str(tmp_path / "documents")
    )
    assert task._example(row).prompt == "Otters: It is heavy."
