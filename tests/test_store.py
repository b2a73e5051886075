"""Arrow folders: what is written is read back, by us and by `datasets`; half-written ones are not taken for whole."""

import json
import platform
import resource

import datasets
import pyarrow as pa
import pytest

from data.errors import InputError
from data.records import Document, Question
from data.store import (
    ShardWriter,
    claim,
    is_claimed,
    is_sealed,
    read_folder,
    release,
    seal,
    temporary_path,
    write_folder,
    write_shard,
)

QUESTION = Question("q", "w", "s", "i", "femp are", ("glon", "troff"), 1, "f", ("d",))


def test_records_come_back_as_they_were(tmp_path) -> None:
    write_folder(tmp_path, Question, [QUESTION])
    assert list(read_folder(tmp_path, Question)) == [QUESTION]


def test_datasets_opens_the_folder(tmp_path) -> None:
    write_shard(tmp_path / "part-00000.arrow", Document, [Document("a", "one", "w")])
    write_shard(tmp_path / "part-00001.arrow", Document, [Document("b", "two", "w")])
    seal(tmp_path, Document)
    assert datasets.load_from_disk(str(tmp_path))["text"][:] == ["one", "two"]
    write_folder(tmp_path / "lists", Question, [QUESTION])
    assert datasets.load_from_disk(str(tmp_path / "lists"))[0]["options"] == ["glon", "troff"]


def test_a_folder_without_its_manifest_is_unfinished(tmp_path) -> None:
    write_shard(tmp_path / "part-00000.arrow", Document, [Document("a", "one", "w")])
    assert not is_sealed(tmp_path)
    seal(tmp_path, Document)
    assert is_sealed(tmp_path)


def test_a_folder_that_is_not_whole_is_not_read(tmp_path) -> None:
    shard = tmp_path / "part-00000.arrow"
    write_shard(shard, Document, [Document("a", "one", "w")])
    with pytest.raises(InputError, match="unfinished"):
        list(read_folder(tmp_path, Document))
    assert len(list(read_folder(tmp_path, Document, unfinished=True))) == 1
    seal(tmp_path, Document)
    with pytest.raises(InputError, match="Document rows"):
        list(read_folder(tmp_path, Question))
    write_shard(tmp_path / "part-00001.arrow", Document, [Document("b", "two", "w")])  # after the folder was sealed
    assert [document.doc_id for document in read_folder(tmp_path, Document)] == ["a"]
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(InputError, match="truncated"):
        list(read_folder(tmp_path, Document))
    shard.unlink()
    with pytest.raises(InputError, match="missing"):
        list(read_folder(tmp_path, Document))


def test_rows_of_an_older_record_are_refused(tmp_path) -> None:
    table = pa.table({"doc_id": ["a"], "text": ["one"], "world": ["w"]})
    with pa.OSFile(str(tmp_path / "part-00000.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match="corpus"):
        list(read_folder(tmp_path, Document, unfinished=True))


def test_two_writers_of_one_file_do_not_share_a_temporary_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)  # process ids repeat between machines that share a disk
    one, other = (temporary_path(tmp_path / "a.json") for _ in range(2))
    assert one != other and platform.node() in one.name


def test_a_folder_is_claimed_for_its_inputs(tmp_path) -> None:
    out = tmp_path / "out"
    assert not is_claimed(out, "one") and not out.exists()
    claim(out, "one")
    assert is_claimed(out, "one")
    for refused in (is_claimed, claim):
        with pytest.raises(InputError, match="other inputs"):
            refused(out, "two")
    release(out)
    assert not is_claimed(out, "two")
    claim(out, "two")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").touch()
    for path in (tmp_path / "foreign", tmp_path / "foreign" / "mine.txt"):
        with pytest.raises(InputError):
            is_claimed(path, "one")
    (out / "inputs.json").write_text("[]")
    with pytest.raises(InputError, match=r"inputs\.json"):
        is_claimed(out, "two")


def test_an_empty_folder_is_refused_with_its_name(tmp_path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        list(read_folder(tmp_path, Document))


def test_an_interrupted_write_leaves_no_shard(tmp_path) -> None:
    def rows():
        yield Document("a", "one", "w")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shard(tmp_path / "part-00000.arrow", Document, rows())
    assert not list(tmp_path.glob("*.arrow"))


def test_tables_are_streamed_into_shards_of_bounded_size(tmp_path) -> None:
    def rows(start: int) -> pa.Table:
        numbers = range(start, start + 10)
        columns = {"corpus": ["w"] * 10, "doc_id": [str(n) for n in numbers], "text": ["x" * 100 for n in numbers]}
        return pa.table(columns | {"heading": [""] * 10, "language": ["en"] * 10, "outline": [[1, 0, 9]] * 10})

    with ShardWriter(tmp_path, Document, shard_bytes=5 * rows(0).nbytes // 2) as writer:
        for start in range(0, 100, 10):
            writer.write(rows(start))
            writer.end_if_full()
    seal(tmp_path, Document)
    assert [path.name for path in sorted(tmp_path.glob("*.arrow"))] == [f"part-{n:05d}.arrow" for n in range(4)]
    assert [document.doc_id for document in read_folder(tmp_path, Document)] == [str(n) for n in range(100)]
    assert datasets.load_from_disk(str(tmp_path))["doc_id"][:] == [str(n) for n in range(100)]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".arrow"] * 4 + [".json"] * 3


def test_an_error_leaves_whole_shards_and_no_half_one(tmp_path) -> None:
    columns = {"doc_id": ["a"], "text": ["x" * 100], "corpus": ["w"], "heading": [""], "language": [""]}
    table = pa.table({**columns, "outline": pa.array([[]], pa.list_(pa.int64()))})
    with pytest.raises(OSError, match="disk full"), ShardWriter(tmp_path, Document, shard_bytes=200) as writer:
        for _ in range(3):
            writer.write(table)
            writer.end_if_full()
        raise OSError("disk full")
    assert len(list(read_folder(tmp_path, Document, unfinished=True))) == 2


def test_the_content_hash_distinguishes_folders(tmp_path) -> None:
    """`datasets` names what it caches by the fingerprint: two folders of one name must not share it."""
    contents = []
    for name, text in (("a/documents", "one"), ("b/documents", "two"), ("c/documents", "one")):
        write_folder(tmp_path / name, Document, [Document("a", text, "w")])
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        state = json.loads((tmp_path / name / "state.json").read_text())
        assert state["_fingerprint"] == manifest["content"]
        contents.append(manifest["content"])
    assert contents[0] == contents[2] != contents[1]


def test_a_write_that_finds_no_room_leaves_nothing_behind(tmp_path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # the system's own refusal, as on a full disk
    try:
        with pytest.raises(OSError):
            write_shard(tmp_path / "big.arrow", Document, [Document("d", "word " * 20_000, "w")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
