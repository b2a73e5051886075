"""Imports: what goes in comes out, once, in order, under ids that are made from it; the rest is rejected."""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.corpora import lines
from data.corpora.importer import Summary, import_corpus, import_key
from data.corpora.ingest import Bookmark, read_bookmark, write_bookmark
from data.corpora.reading import ImportSettings
from data.corpora.sources import find_sources
from data.errors import InputError
from data.records import Document
from data.seeds import fingerprint
from data.store import ShardWriter, read_folder
from data.unicode import clean

ROOT = Path(__file__).resolve().parent.parent
texts = st.text(min_size=1, max_size=40).filter(lambda text: any(letter.isalnum() for letter in clean(text)))
rows = st.lists(texts, min_size=1, max_size=30, unique_by=clean)


def load(paths: object, out: Path, **flags: object) -> Summary:
    words = [str(path) for path in (paths if isinstance(paths, list) else [paths])]
    found = find_sources(words, out=out, code=bool(flags.get("code")))
    return import_corpus(found, out, ImportSettings(**flags))


def texts_in(out: Path) -> list[str]:
    return [document.text for document in read_folder(out / "documents", Document)]


def rejected(out: Path) -> list[tuple[str, int, str]]:
    found = map(json.loads, (out / "rejected" / "rows.jsonl").read_text().splitlines())
    return [(Path(row["file"]).name, row["line"], row["reason"]) for row in found]


def write_jsonl(path: Path, members: list[str], **more: object) -> Path:
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in members))
    return path


def write_csv(path: Path, members: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([["n", "text"], *([str(n), text] for n, text in enumerate(members))])
    return path


def write_parquet(path: Path, members: list[str]) -> Path:
    pq.write_table(pa.table({"n": range(len(members)), "text": members}), path, row_group_size=7)
    return path


def write_arrow(path: Path, members: list[str]) -> Path:
    table = pa.table({"text": pa.array(members, pa.large_string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return path


@pytest.mark.parametrize(
    ("write", "suffix"),
    [(write_jsonl, "jsonl"), (write_csv, "csv"), (write_parquet, "parquet"), (write_arrow, "arrow")],
)
@settings(max_examples=25)
@given(members=rows)
def test_any_rows_come_back_in_order(write, suffix: str, members: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / f"rows.{suffix}", Path(folder) / "out"
        write(path, members)
        summary = load(path, out)
        documents = list(read_folder(out / "documents", Document))
        assert [document.text for document in documents] == list(map(clean, members))
        assert [document.doc_id for document in documents] == [fingerprint(clean(text)) for text in members]
        assert (summary.num_documents, summary.num_rejected) == (len(members), {})


LINES = {
    '{"text": "%d"}': "",
    "": "",
    "   ": "",
    '{"text": "%d"': "broken JSON",
    '["text", "%d"]': "wrong type",
    '{"text": %d}': "wrong type",
    '{"txt": "%d"}': "missing column",
    '{"text": "\xff%d"}': "not UTF-8",
    '{"text": "\\ud800%d"}': "broken JSON",
    '{"text": "\\n"}': "empty",
}


@settings(max_examples=80)
@given(st.lists(st.sampled_from(sorted(LINES)), min_size=1, max_size=40), st.integers(1, 200), st.booleans())
def test_each_broken_line_is_reported_by_its_number(kinds: list[str], block_bytes: int, has_end: bool) -> None:
    before = lines.BLOCK_BYTES
    lines.BLOCK_BYTES = block_bytes
    try:
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder) / "rows.jsonl", Path(folder) / "out"
            written = [kind % number if "%d" in kind else kind for number, kind in enumerate(["{}", *kinds], 1)]
            written[0] = '{"text": "the first"}'
            path.write_bytes("\n".join(written).encode("latin-1") + b"\n" * has_end)
            load(path, out)
            expected = [("rows.jsonl", n, LINES[kind]) for n, kind in enumerate(kinds, 2) if LINES[kind]]
            assert sorted(row for row in rejected(out) if row[2] != "duplicate text") == expected
            good = [str(n) for n, kind in enumerate(kinds, 2) if kind == '{"text": "%d"}']
            assert [text for text in texts_in(out) if text.isdigit()] == good
    finally:
        lines.BLOCK_BYTES = before


def test_two_objects_on_a_line_are_no_row(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"text": "a"}{"text": "b"}\n{"text":\n{"text": "c"}\n{"text": "d"}\n')
    load(tmp_path / "r.jsonl", tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["c", "d"]
    assert [line for _, line, _ in rejected(tmp_path / "out")] == [1, 2]


@pytest.mark.parametrize(
    ("before", "line"), [("", 2), ("\n", 3), (" \n\n", 4), ('{"text": "b"}{"text": "c"}\n', 3), ('{"text":\n"d"}\n', 4)]
)
def test_a_sound_row_knows_its_line(tmp_path: Path, before: str, line: int) -> None:
    (tmp_path / "r.jsonl").write_text('{"text": "a"}\n' + before + '{"text": "a"}\n')
    load(tmp_path / "r.jsonl", tmp_path / "out")
    assert [row[1] for row in rejected(tmp_path / "out") if row[2] == "duplicate text"] == [line]
    assert texts_in(tmp_path / "out") == ["a"]


def test_ids_depend_on_content_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"], other=1)
    (tmp_path / "b.txt").write_text("two")
    load(tmp_path / "a.jsonl", tmp_path / "first")
    load(tmp_path / "b.txt", tmp_path / "second")
    ids = [
        [document.doc_id for document in read_folder(tmp_path / name / "documents", Document)]
        for name in ("first", "second")
    ]
    assert ids[0][1] == ids[1][0] and len(set(ids[0])) == 2


def test_the_same_documents_have_the_same_content_hash(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    write_jsonl(tmp_path / "b.jsonl", ["one", "two"])
    write_jsonl(tmp_path / "c.jsonl", ["one", "three"])
    contents = []
    for name in "abc":
        load(tmp_path / f"{name}.jsonl", tmp_path / name)
        contents.append(json.loads((tmp_path / name / "manifest.json").read_text())["content"])
    assert contents[0] == contents[1] != contents[2]


def test_given_ids_are_kept_and_a_second_one_is_rejected(tmp_path: Path) -> None:
    members = [("a", "x"), ("b", 7), ("c", "x"), ("d", "7")]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps({"body": text, "key": key}) + "\n" for text, key in members))
    load(tmp_path / "r.jsonl", tmp_path / "out", text_column="body", id_column="key")
    found = [(document.doc_id, document.text) for document in read_folder(tmp_path / "out" / "documents", Document)]
    assert found == [("x", "a"), ("7", "b")]
    assert rejected(tmp_path / "out") == [("r.jsonl", 3, "duplicate id"), ("r.jsonl", 4, "duplicate id")]


def test_a_document_keeps_its_id_when_it_comes_again_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.corpora.ingest.MOST_ROWS", 1)  # each file by itself
    (tmp_path / "a.txt").write_text("glon are femp")
    row = {"doc_id": fingerprint("glon are femp"), "text": "glon are femp"}
    (tmp_path / "b.jsonl").write_text(json.dumps(row) + "\n")
    load([tmp_path / "a.txt", tmp_path / "b.jsonl"], tmp_path / "out", id_column="doc_id")
    assert rejected(tmp_path / "out") == [("b.jsonl", 1, "duplicate id")]


def test_duplicates_are_found_across_files_and_batches(tmp_path: Path) -> None:
    members = [f"text {number}" for number in range(20_000)]
    write_jsonl(tmp_path / "a.jsonl", members)
    write_parquet(tmp_path / "b.parquet", [*members[::1000], "new"])
    summary = load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == [*members, "new"]
    assert summary.num_rejected == {"duplicate text": 20}
    assert [row[1] for row in rejected(tmp_path / "out")] == list(range(1, 21))


def test_datasets_opens_an_import_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.store.ShardWriter", partial(ShardWriter, shard_bytes=1))
    members = [f"{number} " + "glon " * 500 for number in range(2_000)]
    write_jsonl(tmp_path / "a.jsonl", members)
    load(tmp_path / "a.jsonl", tmp_path / "out", corpus="mine")
    assert len(list((tmp_path / "out" / "documents").glob("*.arrow"))) > 3
    opened = datasets.load_from_disk(str(tmp_path / "out" / "documents"))
    assert opened["text"][:] == members
    assert set(opened["corpus"]) == {"mine"}


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(3)]}) for name in ("test", "train")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    summary = load(tmp_path / "saved", tmp_path / "out")
    assert texts_in(tmp_path / "out") == [f"{name} {n}" for name in ("test", "train") for n in range(3)]
    assert summary.num_rejected == {}


def test_our_own_documents_are_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    load(tmp_path / "a.jsonl", tmp_path / "first")
    load(tmp_path / "first" / "documents", tmp_path / "second", id_column="doc_id")
    one, two = ([*read_folder(tmp_path / name / "documents", Document)] for name in ("first", "second"))
    assert one == two


def test_a_finished_import_is_not_done_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    first = load(tmp_path / "a.jsonl", tmp_path / "out")
    stamp = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert load(tmp_path / "a.jsonl", tmp_path / "out") == first
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == stamp


def test_other_inputs_or_settings_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    load(tmp_path / "a.jsonl", tmp_path / "out")
    with pytest.raises(InputError, match="other inputs or settings"):
        load(tmp_path / "a.jsonl", tmp_path / "out", chunk_tokens=9)
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    with pytest.raises(InputError, match="other inputs or settings"):
        load(tmp_path / "a.jsonl", tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["one"]


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    (tmp_path / "out" / "documents").mkdir(parents=True)
    (tmp_path / "out" / "documents" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        load(tmp_path / "a.jsonl", tmp_path / "out")
    assert (tmp_path / "out" / "documents" / "mine.txt").exists()


@pytest.mark.parametrize("name", ["rejected/keep.txt", ".import/keep.txt", "notes.txt"])
def test_files_of_any_other_origin_are_never_deleted(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    kept = tmp_path / "out" / name
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(InputError, match="something else"):
        load(tmp_path / "a.jsonl", tmp_path / "out")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [kept]


def test_only_files_of_the_import_are_removed_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("no json\n")
    with pytest.raises(InputError, match="nothing usable"):
        load(path, tmp_path / "out")
    for name in ("rejected/keep.txt", "documents/keep.txt"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
    write_jsonl(path, ["one"])
    load(path, tmp_path / "out")
    assert all((tmp_path / "out" / name).exists() for name in ("rejected/keep.txt", "documents/keep.txt"))
    assert rejected(tmp_path / "out") == [] and texts_in(tmp_path / "out") == ["one"]


def test_the_tokenizers_content_is_part_of_the_key(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["glon are femp."])
    for name in ("one", "two", "other"):
        (tmp_path / name).mkdir()
        content = (ROOT / "models" / "tiny" / "tokenizer.json").read_text()
        (tmp_path / name / "tokenizer.json").write_text(content + " " * (name == "other"))
    found = find_sources([str(path)], out=tmp_path / "out")
    one, two, other = (
        import_key(found, ImportSettings(chunk_tokens=9, tokenizer=str(tmp_path / name)))
        for name in ("one", "two", "other")
    )
    assert one == two != other


def test_a_pattern_may_match_what_was_named_before(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("one")
    found = find_sources([str(tmp_path / "notes"), str(tmp_path / "notes" / "*.md")], out=tmp_path / "out")
    assert [source.path.name for source in found.sources] == ["a.md"]


def test_nothing_usable_is_an_error_and_the_folder_is_free_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("no json\n")
    with pytest.raises(InputError, match=r"nothing usable in 1 files \(1 broken JSON\)") as caught:
        load(path, tmp_path / "out")
    assert f"{path}, line 1" in caught.value.where
    assert rejected(tmp_path / "out") == [("a.jsonl", 1, "broken JSON")]
    write_jsonl(path, ["one"])
    assert load(path, tmp_path / "out").num_documents == 1


def resumable(folder: Path) -> Path:
    """Files that are rejected in part, are read in several shards, and resemble each other across shards."""
    rng = Random(0)
    lines = [f"{n} " + " ".join(f"w{rng.randrange(997)}" for _ in range(60)) for n in range(6_000)]
    broken = [line if n % 500 else "{" for n, line in enumerate(json.dumps({"text": text}) for text in lines)]
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(broken))
    write_jsonl(folder / "b.jsonl", [*lines[::100], *(f"{text} end" for text in lines[1::90]), *lines[3000:3100]])
    (folder / "c.zip").write_bytes(b"PK")
    write_jsonl(folder / "d.jsonl", [f"other {n} " + "glon femp " * 40 for n in range(3_000)])
    return folder


@pytest.mark.parametrize("settings", [{}, {"similarity": 0.8}, {"split": "independent", "chunk_tokens": 20}], ids=str)
def test_a_killed_import_resumes_after_its_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    starts = check_resuming(resumable(tmp_path / "files"), tmp_path, monkeypatch, settings)
    assert len(starts) > 8 and len({mark.source for mark in starts}) > 1
    assert any(mark.num_rejected_rows for mark in starts)


def check_resuming(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> list[Bookmark]:
    """Killed at every shard in turn, it ends as one that never was: documents, rows rejected, counts."""
    monkeypatch.setattr("data.store.ShardWriter", partial(ShardWriter, shard_bytes=300_000))
    monkeypatch.setattr("data.corpora.ingest.BLOCK_BYTES", 100_000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100_000)
    whole = load(source, tmp_path / "whole", **settings)
    out, starts = tmp_path / "out", []

    def mark_and_die(folder: Path, mark: Bookmark) -> None:
        write_bookmark(folder, mark)
        (folder / "documents" / ".part-99999.arrow.1.tmp").write_bytes(b"half a shard")
        raise KeyboardInterrupt  # nothing catches it, as nothing catches SIGKILL

    monkeypatch.setattr("data.corpora.ingest.write_bookmark", mark_and_die)
    while True:
        starts.append(read_bookmark(out))
        try:
            resumed = load(source, out, **settings)
            break
        except KeyboardInterrupt:
            assert not (out / "manifest.json").exists()
    assert [mark.num_shards for mark in starts] == list(range(len(starts)))
    assert resumed == whole
    assert sorted(rejected(out)) == sorted(rejected(tmp_path / "whole"))
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "whole").iterdir())
    contents = [json.loads((folder / "manifest.json").read_text())["content"] for folder in (out, tmp_path / "whole")]
    assert contents[0] == contents[1]
    return starts


def test_an_import_that_was_really_killed_resumes(tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out"
    write_jsonl(path, [f"{n} " + "glon femp " * 60 for n in range(250_000)])  # more than two shards
    command = [sys.executable, "-m", "pipeline", "data", "import", str(path), "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not read_bookmark(out).num_shards:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert not (out / "manifest.json").exists() and not (out / "documents" / "manifest.json").exists()
    first = (out / "documents" / "part-00000.arrow").stat().st_mtime_ns
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (out / "documents" / "part-00000.arrow").stat().st_mtime_ns == first  # it was not written again
    load(path, tmp_path / "whole")
    files = [sorted(file.name for file in (folder / "documents").iterdir()) for folder in (out, tmp_path / "whole")]
    assert files[0] == files[1]
    assert texts_in(out) == texts_in(tmp_path / "whole")
