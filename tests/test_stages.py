"""The augmentation stage with an engine that cannot read everything: refusals are counted, never lost."""

from pathlib import Path

import pytest

from augment_service.augment import AUGMENTATIONS, plan_augmentation, seal_augmentations
from augment_service.contexts import ALL
from augment_service.engines.protocol import EngineSpec
from augment_service.jobs import ShardedJob
from augment_service.methods import AugmentPlan
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import Augmentation, Document
from data.rendering import load_book
from data.store import is_sealed, read_folder, write_folder

BOOK = load_book(Path("models/tiny"))
LONG = " and ".join(["doma"] * 40)


def augment(folder: Path, texts: list[str], window: int) -> tuple[Path, list[ShardedJob]]:
    """The jobs of the local methods on some documents, done by a fake engine with that window."""
    documents = folder / "documents"
    write_folder(documents, Document, [Document(f"d{i}", text, "w0") for i, text in enumerate(texts)])
    jobs = plan_augmentation(documents, folder, BOOK, AugmentPlan(("local",), 1, 0.7, 0), model="m", context=ALL)
    worker = EngineWorker(EngineSpec("fake", "m", window=window))
    for unit in (unit for job in jobs for unit in job.units()):
        worker.run_unit(*unit.args)
    return documents, jobs


def test_refused_prompts_are_counted_and_the_others_become_augmentations(tmp_path: Path) -> None:
    documents, jobs = augment(tmp_path, ["doma are more shiny than ruli", LONG], window=60)
    assert seal_augmentations(documents, tmp_path, jobs) == 2  # one document, two methods
    rows = list(read_folder(tmp_path / AUGMENTATIONS, Augmentation))
    assert {row.sources for row in rows} == {("d0",)} and len(rows) == 2


def test_where_all_prompts_are_refused_nothing_is_sealed(tmp_path: Path) -> None:
    documents, jobs = augment(tmp_path, [LONG], window=60)
    with pytest.raises(InputError, match="60"):
        seal_augmentations(documents, tmp_path, jobs)
    assert not is_sealed(tmp_path / AUGMENTATIONS)
