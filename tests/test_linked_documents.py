"""Prompts that link documents: pairs and triples of entities; global methods with related documents in context."""

from dataclasses import replace
from pathlib import Path

import pytest

from augment_service.augment import AugmentTask, plan_augmentation
from augment_service.contexts import ContextSpec
from augment_service.methods import AugmentPlan, Target, build_prompts
from data.records import Document
from data.rendering import ENGLISH, load_book
from data.store import read_folder, write_folder
from pipeline.models import ROOT

BOOK = load_book(None, ENGLISH)
PLAN = AugmentPlan(("global",), samples=1, temperature=0.7, seed=0, per_document=3)
TEXTS = [
    "The mill at Hallam was built by Tessa Quoin. Its wheel is driven by the Lunn.",
    "The Lunn freezes in January. Oskar Brand measures its ice.",
    "Tessa Quoin also built the bakery in Pell Street.",
    "The bakery in Pell Street belongs to Oskar Brand.",
    "Copper wires need diamond plates.",
]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [Document(f"d{at}", text, "w") for at, text in enumerate(TEXTS)]
    write_folder(tmp_path / "corpus" / "documents", Document, rows)
    return tmp_path / "corpus" / "documents"


def task_of(documents: Path, methods: str, context: ContextSpec, **named: object) -> AugmentTask:
    out, plan = documents.parent.parent / "out", replace(PLAN, methods=(methods,))
    (job,) = plan_augmentation(documents, out, BOOK, plan, model="m", context=context, **named)  # type: ignore[arg-type]
    assert isinstance(job.task, AugmentTask)
    return job.task


def targets_of(documents: Path, methods: str, context: ContextSpec, **named: object) -> dict[str, list[Target]]:
    task = task_of(documents, methods, context, **named)
    return {row.doc_id: list(task.targets(row)) for row in read_folder(documents, Document)}


def test_the_nearest_documents_are_in_context_and_among_the_sources(documents: Path) -> None:
    found = targets_of(documents, "global", ContextSpec("nearest", 2))
    assert set(found["d0"][0].context.doc_ids) == {"d1", "d2"}
    for doc_id, targets in found.items():
        for target in targets:
            assert target.sources == (doc_id, *target.context.doc_ids)
            assert doc_id not in target.context.doc_ids
            assert all(TEXTS[int(one[1])] in target.context.text for one in target.sources[1:])
    assert not found["d4"]  # nothing is related to it


def test_a_bundle_has_the_document_itself(documents: Path) -> None:
    found = targets_of(documents, "global", ContextSpec("bundle", 3))
    (target,) = found["d0"]
    assert set(target.context.doc_ids) == {"d0", "d1", "d2"} and target.sources[0] == "d0"
    assert len(target.sources) == 3


@pytest.mark.parametrize(("methods", "size"), [("pairs", 2), ("triples", 3)])
def test_groups_of_entities_stand_in_the_documents_of_their_context(documents: Path, methods: str, size: int) -> None:
    found = targets_of(documents, methods, ContextSpec("all"))
    assert sum(map(len, found.values())) > 3
    for doc_id, targets in found.items():
        assert len(targets) <= PLAN.per_document
        assert len({target.about for target in targets}) == len(targets)
        for target in targets:
            assert len(target.about) == size and target.sources[0] == doc_id
            assert target.context.doc_ids == target.sources
            assert all(entity.lower() in target.context.text.lower() for entity in target.about)
    linked = [target for targets in found.values() for target in targets if len(target.sources) > 1]
    assert linked  # some go through another document


def test_equal_neighbours_make_equal_prompts_in_a_wider_corpus(documents: Path, tmp_path: Path) -> None:
    rows = [*read_folder(documents, Document), Document("d9", "Glass is blown in Dorn.", "w")]
    write_folder(tmp_path / "wider" / "documents", Document, rows)

    def prompts(folder: Path) -> set[str]:
        found = targets_of(folder, "pairs", ContextSpec("all"))
        (template,) = BOOK.select(["pairs"])
        by_id = {row.doc_id: row for row in read_folder(folder, Document)}
        return {
            prompt.prompt_id
            for doc_id, targets in found.items()
            for target in targets
            for prompt in build_prompts(by_id[doc_id], target, template, PLAN, "m")
        }

    assert len(prompts(documents) & prompts(tmp_path / "wider" / "documents")) >= len(prompts(documents)) // 2


def test_what_does_not_fit_beside_the_document_is_left_out(documents: Path) -> None:
    tokenizer = str(ROOT / "models" / "tiny")
    nearest = ContextSpec("nearest", 3)
    overhead = task_of(documents, "global", nearest, window=4096, tokenizer=tokenizer)._overhead("w")
    wide, narrow = (
        targets_of(documents, "global", nearest, window=overhead + room, tokenizer=tokenizer) for room in (200, 40)
    )
    sizes = [[len(target.sources) for targets in found.values() for target in targets] for found in (wide, narrow)]
    assert 0 < sum(sizes[1]) < sum(sizes[0])
