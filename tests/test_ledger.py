"""The ledger: what was asked once is not asked again, and what was not, is."""

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import interrupted_augmentation
import pyarrow as pa
import pytest

from augment_service.augment import AUGMENTATIONS, PARTS, plan_augmentation, seal_augmentations
from augment_service.contexts import ALL
from augment_service.engines.fake import FakeEngine
from augment_service.engines.protocol import EngineSpec
from augment_service.ledger import Ledger, index_shards
from augment_service.methods import AugmentPlan
from augment_service.worker import EngineWorker
from data.records import Augmentation, Document, Prompt
from data.rendering import ENGLISH, NONSENSE, load_book
from data.seeds import fingerprint
from data.store import read_folder, read_shard, write_folder, write_shard

PLAN = AugmentPlan(methods=("local",), samples=2, temperature=0.7, seed=0)
BOOK, ENGLISH_BOOK = load_book(None, NONSENSE), load_book(None, ENGLISH)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each prompt was sent to an engine."""
    counts: Counter[str] = Counter()
    real = FakeEngine.generate

    def generate(self: FakeEngine, prompts: Sequence[Prompt], on_answer: Callable | None = None) -> list:
        counts.update(prompt.prompt_id for prompt in prompts)
        return real(self, prompts, on_answer)

    monkeypatch.setattr(FakeEngine, "generate", generate)
    return counts


def documents_of(folder: Path, numbers: Sequence[int]) -> Path:
    rows = [Document(f"d{at}", f"otter {at} swims. stoat {at} runs.", "w") for at in numbers]
    write_folder(folder, Document, rows)
    return folder


def augment(out: Path, documents: Path, plan: AugmentPlan = PLAN, model: str = "m", **named: object) -> list:
    book = named.pop("book", BOOK)
    jobs = plan_augmentation(documents, out, book, plan, model=model, context=ALL, **named)  # type: ignore[arg-type]
    worker = EngineWorker(EngineSpec(kind="fake", model="none"))
    for unit in [unit for job in jobs for unit in job.units()]:
        worker.run_unit(*unit.args)  # type: ignore[arg-type]
    seal_augmentations(documents, out, jobs)
    return list(read_folder(out / AUGMENTATIONS, Augmentation))


def rows_of(rows: list[Augmentation]) -> list[str]:
    """The rows without what an engine counted: what it has in its cache depends on the order."""
    return [repr(replace(row, tokens=())) for row in rows]


def test_a_wider_corpus_and_a_further_method_ask_only_what_is_missing(tmp_path: Path, asked: Counter[str]) -> None:
    first = augment(tmp_path / "out", documents_of(tmp_path / "few", range(3, 9)))
    assert len(asked) == 6 * 2 * 2 * 2
    before = set(asked)
    wider = augment(tmp_path / "out", documents_of(tmp_path / "more", range(12)))
    assert max(asked.values()) == 1 and len(asked) == 12 * 2 * 2 * 2
    assert set(rows_of(first)) <= set(rows_of(wider))
    both = augment(tmp_path / "out", tmp_path / "more", replace(PLAN, methods=("local", "global")))
    assert max(asked.values()) == 1 and len(asked) == 12 * 2 * 2 * 3
    assert {row.prompt_id for row in both} == set(asked) and before < set(asked)
    assert rows_of(augment(tmp_path / "out", tmp_path / "few")) == rows_of(first)
    assert max(asked.values()) == 1
    alone = augment(tmp_path / "alone", tmp_path / "more", replace(PLAN, methods=("local", "global")))
    assert rows_of(alone) == rows_of(both)


@pytest.mark.parametrize(
    "other",
    [
        {"plan": replace(PLAN, temperature=0.8)},
        {"plan": replace(PLAN, seed=1)},
        {"model": "other"},
        {"book": load_book(None, ENGLISH)},
    ],
)
def test_whatever_changes_makes_other_rows(tmp_path: Path, asked: Counter[str], other: dict) -> None:
    documents = documents_of(tmp_path / "documents", range(4))
    augment(tmp_path / "out", documents)
    before = len(asked)
    augment(tmp_path / "out", documents, **other)
    assert len(asked) == 2 * before and max(asked.values()) == 1


def test_more_samples_keep_the_first_ones(tmp_path: Path, asked: Counter[str]) -> None:
    documents = documents_of(tmp_path / "documents", range(4))
    first = augment(tmp_path / "out", documents)
    more = augment(tmp_path / "out", documents, replace(PLAN, samples=3))
    assert max(asked.values()) == 1 and len(asked) == len(first) * 3 // 2
    assert {row.augmentation_id for row in first} < {row.augmentation_id for row in more}


def test_what_is_proposed_first_is_not_asked_again_either(tmp_path: Path, asked: Counter[str]) -> None:
    plan = replace(PLAN, methods=("strategies",), samples=1, per_document=3)
    rows = augment(tmp_path / "out", documents_of(tmp_path / "few", range(3)), plan, book=ENGLISH_BOOK)
    proposed = [row for row in rows if row.verdict == "proposed"]
    applied = [row for row in rows if row.method == "strategies/apply"]
    assert {row.method for row in proposed} == {"strategies/propose"}
    assert {row.about[0] for row in applied} <= {row.text for row in proposed}
    assert 0 < len({row.prompt_id for row in applied}) <= 3 * 3
    augment(tmp_path / "out", documents_of(tmp_path / "more", range(5)), plan, book=ENGLISH_BOOK)
    assert max(asked.values()) == 1 and {row.prompt_id for row in rows} < set(asked)


def test_a_document_longer_than_the_window_is_asked_about_in_parts_or_not_at_all(tmp_path: Path) -> None:
    tokenizer = str(Path("models/tiny").absolute())
    text = " ".join("femp are more shiny than glon. troff are more lively than yomp." for _ in range(60))
    write_folder(
        tmp_path / "documents", Document, [Document("long", text, "w"), Document("short", "femp are shiny.", "w")]
    )
    limits = {"window": 900, "tokenizer": tokenizer, "book": ENGLISH_BOOK}
    plan = replace(PLAN, methods=("spa/concepts",), samples=1)
    rows = augment(tmp_path / "cut", tmp_path / "documents", plan, **limits)
    parts = [row.span for row in rows if row.sources == ("long",)]
    assert len(parts) > 1 and parts[0][0] == 0 and parts[-1][1] == len(text)
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    assert [row.span for row in rows if row.sources == ("short",)] == [()]
    skipped = augment(tmp_path / "skip", tmp_path / "documents", replace(plan, long_documents="skip"), **limits)
    assert [row.sources for row in skipped] == [("short",)]


def test_twenty_kills_leave_the_rows_of_an_unbroken_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Document(f"d{at}", f"otter {at} swims. stoat {at} runs.", "w") for at in range(150)]
    write_folder(tmp_path / "documents", Document, rows)
    monkeypatch.setattr("interrupted_augmentation.SECONDS", 0.0)
    interrupted_augmentation.augment(str(tmp_path / "documents"), str(tmp_path / "whole"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the server from which processes are forked
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["interrupted_augmentation"])
    draw, kills, pieces, begun = Random(0), 0, 0, context.Event()
    out = tmp_path / "out"
    while kills < 20 and not (out / AUGMENTATIONS / "manifest.json").exists():
        process = context.Process(
            target=interrupted_augmentation.augment, args=(str(tmp_path / "documents"), str(out), begun), daemon=True
        )
        process.start()
        assert begun.wait(60)
        begun.clear()
        process.join(draw.random())
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        pieces = max(pieces, len(list(out.glob("parts/pieces/*/*.arrow"))))
    assert kills >= 10 and pieces  # it was killed in the middle of units, again and again
    interrupted_augmentation.augment(str(tmp_path / "documents"), str(out))
    whole, broken = (list(read_folder(folder / AUGMENTATIONS, Augmentation)) for folder in (tmp_path / "whole", out))
    assert rows_of(broken) == rows_of(whole)
    assert len({row.augmentation_id for row in broken}) == len(broken) > 1000


# ---- the index


def row_of(prompt_id: str, place: int) -> Augmentation:
    rest = {"sentence": "", "reasoning": "", "verdict": "kept", "support": 0.0, "finish_reason": "stop", "model": "m"}
    more = {"template": "t", "context_id": "c", "temperature": 0.0, "seed": 0}
    text = f"{prompt_id} {place}"
    return Augmentation(text, "w", "local/x", ("d",), text=text, prompt_id=prompt_id, place=place, **rest, **more)  # type: ignore[arg-type]


def test_the_index_finds_every_prompt_and_nothing_else(tmp_path: Path) -> None:
    ids = [f"{at:032x}" for at in (5, 3, 2**127, 2**64, 1, 2**64 + 1)]
    write_shard(tmp_path / "a.arrow", Augmentation, [row_of(one, place) for one in ids[:3] for place in range(2)])
    write_shard(tmp_path / "b.arrow", Augmentation, [row_of(one, 0) for one in ids[3:]])
    write_shard(tmp_path / "empty.arrow", Augmentation, [])
    ledger = Ledger.open(index_shards(tmp_path), Augmentation)
    assert len(ledger) == 6
    for one in ids:
        assert [row.place for row in ledger.find(one)] == ([0, 1] if one in ids[:3] else [0])
        assert {row.prompt_id for row in ledger.find(one)} == {one}
    assert ledger.find(f"{4:032x}") == () and ledger.find("f" * 32) == ()
    assert Ledger.open(index_shards(tmp_path, leave_out=[tmp_path / "a.arrow"]), Augmentation).find(ids[0]) == ()
    assert not Ledger.open("", Augmentation).find(ids[0])


def test_a_folder_that_was_written_before_prompts_had_names_is_left_alone(tmp_path: Path) -> None:
    (shard,) = [tmp_path / PARTS / "old.arrow"]
    write_shard(shard, Document, [Document("d", "x", "w")])
    augment(tmp_path, documents_of(tmp_path / "documents", range(2)))
    assert read_shard(shard, Document)


def test_indexes_of_one_command_stay_and_those_of_an_earlier_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suites of a study leave out their own shards, so each has an index of the same folder."""
    for name in "abc":
        row = {"prompt_id": fingerprint(name)}
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as sink:
            table = pa.Table.from_pylist([row])
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
    both = [index_shards(tmp_path, leave_out=[tmp_path / f"{name}.arrow"]) for name in "ab"]
    assert [len(Ledger.open(index, Augmentation)) for index in both] == [2, 2]
    monkeypatch.setattr("augment_service.ledger._NAMED", set())  # a later command
    last = index_shards(tmp_path)
    assert sorted(path.name for path in (tmp_path / "ledger").iterdir()) == [
        Path(last).with_suffix(suffix).name for suffix in (".npy", ".txt")
    ]
    Path(last).with_suffix(".txt").unlink()  # a kill while it was removed
    assert len(Ledger.open(index_shards(tmp_path), Augmentation)) == 3
