"""Sharded jobs: ranges, names of targets, refusals that are never stale, units that are tried again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from augment_service.engines.protocol import Engine, EngineSpec
from augment_service.jobs import OnRow, RowAnswer, RowRange, ShardedJob, refuse_if_all, rewrite_folder, row_ranges
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import Document, Generation, Refusal
from data.store import (
    list_shards,
    read_folder,
    read_refusals,
    read_shard,
    refusals_path,
    seal,
    write_folder,
    write_shard,
)


@dataclass(frozen=True)
class Echoing:
    """Two answers for each document; one that begins with "bad" is refused."""

    kind: str = "window"
    asked: ClassVar[type] = Document
    answered: ClassVar[type] = Generation

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        for at, row in reversed(list(enumerate(rows))):  # in any order
            if row.text.startswith("bad"):
                on_row(at, RowAnswer((), (Refusal(row.doc_id, self.kind, "it is bad", "none"),)))
            else:
                on_row(at, RowAnswer(tuple(Generation(row.doc_id, f"{row.text}{n}", "stop", 1) for n in range(2))))


def make(folder: Path, corpora: str, texts: Sequence[str] = ()) -> Path:
    rows = [Document(f"d{at}", texts[at] if texts else f"t{at}", corpus) for at, corpus in enumerate(corpora)]
    write_folder(folder, Document, rows)
    return folder


def job_of(documents: Path, out: Path, task: Echoing | None = None, key: str = "k", size: int = 2) -> ShardedJob:
    return ShardedJob("job", task or Echoing(), tuple(row_ranges(documents, rows_per_unit=size)), out, key)


def run(job: ShardedJob) -> None:
    worker = EngineWorker(EngineSpec(kind="fake", model="none"))
    for unit in job.units():
        worker.run_unit(*unit.args)  # type: ignore[arg-type]


def test_a_range_lies_in_one_shard_and_one_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    write_shard(folder / "part-00000.arrow", Document, [Document(f"a{at}", "t", c) for at, c in enumerate("xxxyy")])
    write_shard(folder / "part-00001.arrow", Document, [Document(f"b{at}", "t", "y") for at in range(3)])
    seal(folder, Document)
    first, second = map(str, list_shards(folder))
    ranges = row_ranges(folder, rows_per_unit=2)
    assert ranges == [
        RowRange(first, 0, 2, "x"),
        RowRange(first, 2, 3, "x"),
        RowRange(first, 3, 5, "y"),
        RowRange(second, 0, 2, "y"),
        RowRange(second, 2, 3, "y"),
    ]
    assert row_ranges(folder, rows_per_unit=2, corpora=["y"]) == ranges[2:]


def test_targets_are_named_by_all_that_decides_the_answers(tmp_path: Path) -> None:
    documents = make(tmp_path / "a", "xxx")
    plain = job_of(documents, tmp_path / "out")
    assert job_of(make(tmp_path / "elsewhere", "xxx"), tmp_path / "out").targets == plain.targets  # content, not a path
    others = [
        job_of(documents, tmp_path / "out", key="other"),
        job_of(documents, tmp_path / "out", size=3),
        job_of(make(tmp_path / "b", "xxx", ["t0", "t1", "changed"]), tmp_path / "out"),
    ]
    names = [set(job.targets) for job in (plain, *others)]
    assert len(set().union(*names)) == sum(map(len, names))


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    job = job_of(make(tmp_path / "documents", "xxxxx"), tmp_path / "out")
    assert [unit.num_rows for unit in job.units()] == [2, 2, 1]
    run(job)
    assert job.units() == []
    texts = [text for table in job.tables() for text in table["text"].to_pylist()]
    assert texts == [f"t{row}{at}" for row in range(5) for at in range(2)]
    job.targets[1].unlink()
    assert [unit.name for unit in job.units()] == ["job 2/3"]


def test_refusals_are_written_with_every_shard_and_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(make(tmp_path / "documents", "xx", ["bad", "good"]), tmp_path / "out")
    (target,) = job.targets
    with pytest.MonkeyPatch.context() as patch:  # killed between the refusals and the shard
        written: list[Path] = []

        def write(path: Path, *args: Any) -> int:
            written.append(path)
            if path == target:
                raise KeyboardInterrupt
            return write_shard(path, *args)

        patch.setattr("augment_service.worker.write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert written == [refusals_path(target), target]
    assert len(read_refusals(target)) == 1
    # Then all is answered: the refusal of the first attempt is gone.
    run(job_of(make(tmp_path / "documents", "xx", ["bad", "good"]), tmp_path / "out", Echoing()))
    monkeypatch.setattr(
        Echoing, "compute", lambda self, engine, rows, on_row: [on_row(at, RowAnswer(())) for at in range(len(rows))]
    )
    target.unlink()
    run(job)
    assert refusals_path(target).exists()
    assert read_refusals(target) == []


@pytest.mark.parametrize(("kind", "retried"), [("endpoint", True), ("crash", True), ("window", False)])
def test_only_what_may_pass_another_time_is_tried_again(tmp_path: Path, kind: str, retried: bool) -> None:
    documents = make(tmp_path / "documents", "xxx", ["bad", "good", "good"])
    job = job_of(documents, tmp_path / "out", Echoing(kind))
    run(job)
    job.retry()
    assert [unit.name for unit in job.units()] == (["job 1/2"] if retried else [])


def test_if_all_is_refused_the_reason_is_that_of_a_row(tmp_path: Path) -> None:
    some = job_of(make(tmp_path / "some", "xx", ["bad", "good"]), tmp_path / "out")
    every = job_of(make(tmp_path / "every", "xx", ["bad", "bad too"]), tmp_path / "out")
    run(some)
    run(every)
    assert refuse_if_all([some, every], "row") == 3
    with pytest.raises(InputError) as raised:
        refuse_if_all([every], "row")
    assert raised.value.what == "it is bad" and "d0" in raised.value.where


def test_a_folder_that_is_rewritten_has_no_manifest_until_it_is_whole(tmp_path: Path) -> None:
    documents = make(tmp_path / "documents", "xxx")
    rows = [table for shard in list_shards(documents) for table in [shard]]
    with pytest.raises(RuntimeError), rewrite_folder(documents, Document):
        assert not (documents / "manifest.json").exists()
        raise RuntimeError
    assert rows and not (documents / "manifest.json").exists()
    with rewrite_folder(documents, Document):
        pass
    assert list(read_folder(documents, Document)) == []


def test_receipts_count_rows_of_the_source(tmp_path: Path) -> None:
    documents = make(tmp_path / "documents", "xxxx", ["bad", "good", "good", "bad"])
    (unit,) = job_of(documents, tmp_path / "out", size=4).units()
    worker = EngineWorker(EngineSpec(kind="fake", model="none"))
    receipt = worker.run_unit(*unit.args)  # type: ignore[arg-type]
    assert (receipt.num_rows, receipt.num_refused) == (2, 2)  # though 4 answers were written
    assert len(read_shard(Path(receipt.path), Generation)) == 4
    assert replace(worker.run_unit(*unit.args), wall_seconds=0.0) == replace(receipt, wall_seconds=0.0)  # type: ignore[arg-type]
