"""Bad input: each kind is reported with file and line, the rest is imported, memory stays bounded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_corpora import ROOT, load, rejected, texts_in, write_jsonl, write_parquet

from data.corpora.sources import find_sources
from data.errors import InputError

PROGRAM = """
import json, sys
from pathlib import Path
from data.corpora.importer import import_corpus
from data.corpora.reading import ImportSettings
from data.corpora.sources import find_sources
out = Path(sys.argv[2])
summary = import_corpus(find_sources([sys.argv[1]], out=out), out, ImportSettings(**json.loads(sys.argv[3])))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([summary.num_documents, int(peak.split()[1]) // 1024]))
"""


def load_apart(path: Path, out: Path, **flags: object) -> tuple[int, int]:
    """An import in a process of its own: documents, and the most MiB that it held."""
    command = [sys.executable, "-c", PROGRAM, str(path), str(out), json.dumps(flags)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    documents, peak = json.loads(done.stdout)
    return documents, peak


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "csv"])
def test_a_line_of_200_mb_is_passed_over_in_little_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"long.{suffix}"
    first, last = {
        "jsonl": ('{"text": "first"}\n', '{"text": "last"}\n'),
        "txt": ("first\n", "last\n"),
        "csv": ("text\nfirst\n", "last\n"),
    }[suffix]
    with path.open("w") as file:
        file.write(first)
        for _ in range(200):
            file.write("x" * 1_000_000)
        file.write("\n" + last)
    documents, peak = load_apart(path, tmp_path / "out")
    assert "".join(texts_in(tmp_path / "out")).split() in (["firstlast"], ["first", "last"])
    assert documents == (1 if suffix == "txt" else 2)
    assert (path.name, first.count("\n") + 1, "too long") in rejected(tmp_path / "out")
    assert peak < 250


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for name, count in (("small", 10_000), ("large", 120_000)):
        path = write_jsonl(tmp_path / f"{name}.jsonl", [f"{number} " + "glon femp " * 80 for number in range(count)])
        peaks.append(load_apart(path, tmp_path / name)[1])
    assert peaks[1] < peaks[0] + 40  # MiB, while the file grows by 90


def test_the_limit_is_the_users(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["short", "x" * 3_000_000])
    load(tmp_path / "a.jsonl", tmp_path / "out", max_bytes=1 << 20)
    assert rejected(tmp_path / "out") == [("a.jsonl", 2, "too long")]
    load(tmp_path / "a.jsonl", tmp_path / "other")
    assert len(texts_in(tmp_path / "other")) == 2


def test_a_long_text_file_becomes_documents_that_end_with_lines(tmp_path: Path) -> None:
    written = "".join(f"line {number}\n" for number in range(200_000))
    (tmp_path / "a.txt").write_text(written)
    load(tmp_path / "a.txt", tmp_path / "out", max_bytes=1 << 20)
    found = texts_in(tmp_path / "out")
    assert len(found) == 3 and all(len(text) <= 1 << 20 for text in found)
    assert "\n".join(found) == written.removesuffix("\n")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"good\nbad \xe9\n", 2),
        (b"\xff\xfea\x00b", 1),
        (b"\xff\xfe\x00\xd8a\x00", 1),
        (b"\xed\xa0\x80", 1),
        (b"a\n\xc3", 2),
    ],
)
def test_a_text_in_another_encoding_is_rejected(tmp_path: Path, content: bytes, line: int) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_text("\ufeffgood")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    assert rejected(tmp_path / "out") == [("a.txt", line, "not UTF-8")]


def test_empty_documents_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.md").write_text(" \n\t\u3000\n")
    write_jsonl(tmp_path / "c.jsonl", ["", "good", " \n"])
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    empty = [("a.txt", 0, "empty"), ("b.md", 1, "empty"), ("c.jsonl", 1, "empty"), ("c.jsonl", 3, "empty")]
    assert sorted(rejected(tmp_path / "out")) == empty


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "arrow"])
def test_a_missing_column_is_reported_with_those_that_are_there(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"body": ["a"], "key": ["k"]})
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_text({"csv": "body,key\na,k\n", "jsonl": '{"body": "a", "key": "k"}\n'}[suffix])
    (tmp_path / "good.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    (row,) = map(json.loads, (tmp_path / "out" / "rejected" / "rows.jsonl").read_text().splitlines())
    assert row["reason"] == "missing column" and "body, key" in row["detail"]


def test_a_truncated_parquet_file_is_rejected(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "a.parquet", [f"text {n}" for n in range(100)]).read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    write_parquet(tmp_path / "b.parquet", ["good"])
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    assert rejected(tmp_path / "out") == [("a.parquet", 0, "broken Parquet")]


def test_a_parquet_file_that_is_broken_inside_gives_what_comes_before(tmp_path: Path) -> None:
    members = [f"{n} " + os.urandom(200).hex() for n in range(300)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": members}), path, row_group_size=100, use_dictionary=False, compression="zstd")
    second = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = second.data_page_offset + second.total_compressed_size // 2
    content[middle : middle + 500] = bytes(500)
    path.write_bytes(content)
    load(path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == members[:100]
    assert rejected(tmp_path / "out") == [("a.parquet", 101, "broken Parquet")]


def test_a_truncated_arrow_stream_gives_what_comes_before(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {n}" for n in range(100)]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    whole = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(whole[: len(whole) // 2])
    load(tmp_path, tmp_path / "out")
    found = texts_in(tmp_path / "out")
    assert 0 < len(found) < 100 and found == table["text"].to_pylist()[: len(found)]
    assert rejected(tmp_path / "out") == [("a.arrow", len(found) + 1, "broken Arrow file")]


def test_offsets_that_lead_out_of_an_arrow_buffer_are_not_followed(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 4, 1 << 30, 8)))
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"glonfemp"))
    batch = pa.RecordBatch.from_arrays([broken], ["text"])
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    assert rejected(tmp_path / "out") == [("a.arrow", 0, "broken Arrow file")]


def test_bytes_of_a_table_that_are_no_text_are_rejected_row_by_row(tmp_path: Path) -> None:
    column = pa.array([b"one", b"\xff", None, b"four"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    load(tmp_path / "a.parquet", tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["one", "four"]
    assert sorted(rejected(tmp_path / "out")) == [("a.parquet", 2, "not UTF-8"), ("a.parquet", 3, "empty")]


def test_a_dictionary_of_one_long_text_is_not_unrolled(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 3000 + [1], pa.int32()), ["x" * 2_000_000, "good"])
    table = pa.table({"text": column})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    documents, peak = load_apart(tmp_path / "a.arrow", tmp_path / "out", max_bytes=1 << 20)
    assert documents == 1 and texts_in(tmp_path / "out") == ["good"]
    assert peak < 300  # MiB, of texts of 6 GB


def test_archives_and_unknown_files_are_not_opened(tmp_path: Path) -> None:
    for name in ("a.zip", "b.tar.gz", "c.jsonl.gz", "d.zst", "e.bin", "F"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
    (tmp_path / "good.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    reasons = [(name, reason) for name, _, reason in rejected(tmp_path / "out")]
    refused = [(name, "archive") for name in ("a.zip", "b.tar.gz", "d.zst")]
    assert sorted(reasons) == sorted([*refused, ("c.jsonl.gz", "broken compression")])
    load([tmp_path / name for name in ("good.txt", "e.bin", "F")], tmp_path / "named")
    reasons = [(name, reason) for name, _, reason in rejected(tmp_path / "named")]
    assert sorted(reasons) == [("F", "unknown kind"), ("e.bin", "unknown kind")]


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "secret.txt").write_text("secret")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good.txt").write_text("good")
    (corpus / "file.txt").symlink_to(secret / "secret.txt")
    (corpus / "folder").symlink_to(secret)
    (corpus / "up").symlink_to("..")
    for number, path in enumerate((corpus, corpus / "*", corpus / "**")):
        load(path, tmp_path / f"out{number}")
        assert texts_in(tmp_path / f"out{number}") == ["good"]
        links = {name for name, _, reason in rejected(tmp_path / f"out{number}") if reason == "link"}
        assert {"file.txt", "folder", "up"} <= links


def test_a_saved_dataset_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "secret.arrow", ["secret"])
    state = {"_data_files": [{"filename": "../secret.arrow"}]}
    (tmp_path / "corpus" / "state.json").write_text(json.dumps(state))
    (tmp_path / "corpus" / "dataset_info.json").write_text("{}")
    found = find_sources([str(tmp_path / "corpus")], out=tmp_path / "out")
    assert found.sources == [] and [reason for _, reason, _ in found.refused] == ["path trick"]


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "good.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert rejected(tmp_path / "out") == [("pipe.txt", 0, "no file")]


def test_the_output_is_not_read_and_not_the_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    load(tmp_path, tmp_path / "out")
    before = find_sources([str(tmp_path)], out=tmp_path / "out")
    assert [source.path.name for source in before.sources] == ["a.txt"]
    with pytest.raises(InputError, match="output folder is the input"):
        find_sources([str(tmp_path)], out=tmp_path)


@pytest.mark.parametrize("word", ["nowhere.txt", "nowhere/*.txt", "empty", "x" * 300])
def test_a_path_that_names_nothing_is_refused(tmp_path: Path, word: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing matches|no files here"):
        find_sources([str(tmp_path / word)], out=tmp_path / "out")
