"""What the stages make of answers and refusals on disk, without an engine: counted, never a score of zero."""

from pathlib import Path

import pytest

from augment_service.augment import AUGMENTATIONS, collect, write_prompts
from augment_service.methods import AugmentPlan
from data.errors import InputError
from data.records import Augmentation, Document, Generation, Prompt, Refusal
from data.rendering import load_book
from data.store import is_sealed, read_folder, read_shard, refusals_path, write_folder, write_shard

BOOK = load_book(Path("models/tiny"))
TOO_LONG = "3000 tokens are needed, the model's window has 2048"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [Document(f"d{i}", f"{name} are more shiny than ruli", "w0") for i, name in enumerate(("doma", "zusu"))]
    write_folder(tmp_path / "documents", Document, rows)
    return tmp_path / "documents"


def write_answers(out: Path, refused: int) -> int:
    """Generations for all prompts but the first few; how many prompts there are."""
    (shard,) = (out / "prompts").glob("*.arrow")
    prompts = read_shard(shard, Prompt)
    target = out / "generations" / shard.name
    write_shard(
        refusals_path(target), Refusal, [Refusal(p.prompt_id, "window", TOO_LONG, "") for p in prompts[:refused]]
    )
    answers = [Generation(p.prompt_id, f"line {number}", "stop", 2) for number, p in enumerate(prompts)]
    write_shard(target, Generation, answers[refused:])
    return len(prompts)


def test_refused_prompts_are_counted_and_the_others_become_augmentations(tmp_path: Path, documents: Path) -> None:
    units = write_prompts(documents, tmp_path, BOOK, AugmentPlan(("local",), 1, 0.7, 0))
    total = write_answers(tmp_path, refused=1)
    assert collect(documents, tmp_path, BOOK, units, model="m") == 1
    assert len(list(read_folder(tmp_path / AUGMENTATIONS, Augmentation))) == total - 1 == units[0].num_rows - 1


def test_where_all_prompts_are_refused_nothing_is_sealed(tmp_path: Path, documents: Path) -> None:
    units = write_prompts(documents, tmp_path, BOOK, AugmentPlan(("local",), 1, 0.7, 0))
    write_answers(tmp_path, refused=units[0].num_rows)
    with pytest.raises(InputError, match=TOO_LONG):
        collect(documents, tmp_path, BOOK, units, model="m")
    assert not is_sealed(tmp_path / AUGMENTATIONS)
