"""Compressed files and JSON texts as streams: rows before a fault are kept, faults are reported, memory is bounded."""

import bz2
import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpora import load, rejected, texts_in, write_jsonl
from test_corpora_bad_input import load_apart

from data.corpora import lines
from data.corpora.reading import Source
from data.corpora.sources import find_sources
from data.corpora.streams import open_stream
from data.unicode import clean

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bgz": gzip.compress,
    ".zst": zstd.compress,
    ".zstd": zstd.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
FORMS = [".gz", ".zst", ".bz2", ".xz"]
JSONL = b"".join(json.dumps({"text": f"Row {n} is sound."}).encode() + b"\n" for n in range(3000))
ROWS = [f"Row {n} is sound." for n in range(3000)]


def put(folder: Path, name: str, content: bytes) -> Path:
    """A file beside a sound one."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / name).write_bytes(content)
    (folder / "in" / "z.txt").write_text("Sound text.")
    return folder / "in" / name


def found(folder: Path, **flags: object) -> list[str]:
    """The documents of the folder, of which the last is the sound one."""
    load(folder / "in", folder / "out", **flags)
    *others, last = texts_in(folder / "out")
    assert last == "Sound text."
    return others


def reasons(folder: Path) -> list[tuple[int, str]]:
    return [(line, reason) for _, line, reason in rejected(folder / "out")]


def detail(folder: Path, row: int = 0) -> str:
    return str(json.loads((folder / "out" / "rejected" / "rows.jsonl").read_text().splitlines()[row])["detail"])


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (".jsonl", b'{"text": "One."}\n'),
        (".json", b'[{"text": "One."}]'),
        (".csv", b"text,n\nOne.,1\n"),
        (".txt", b"One.\n"),
        (".MD", b"One."),
        (".html", b"<p>One.</p>"),
    ],
)
def test_a_compressed_file_is_read_as_what_is_in_it(tmp_path: Path, suffix: str, kind: str, content: bytes) -> None:
    put(tmp_path, f"a{kind}{suffix}", COMPRESSORS[suffix](content))
    assert found(tmp_path) == ["One."] and reasons(tmp_path) == []


@pytest.mark.parametrize("suffix", FORMS)
def test_all_members_of_a_file_are_read(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    parts = [JSONL[at : at + 1000] for at in range(0, len(JSONL), 1000)]
    put(tmp_path, f"a.jsonl{suffix}", b"".join(map(compress, [*parts, b""])) + bytes(512) * (suffix in {".gz", ".xz"}))
    assert found(tmp_path) == ROWS and reasons(tmp_path) == []


def test_frames_of_zstd_that_are_to_be_skipped_are_skipped(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    put(
        tmp_path,
        "a.jsonl.zst",
        skipped + zstd.compress(JSONL[:27000]) + skipped + zstd.compress(JSONL[27000:]) + skipped,
    )
    assert found(tmp_path) == ROWS and reasons(tmp_path) == []


@pytest.mark.parametrize("suffix", FORMS)
def test_rows_before_the_end_of_a_cut_file_are_kept(tmp_path: Path, suffix: str) -> None:
    whole = COMPRESSORS[suffix](
        b"".join(json.dumps({"text": os.urandom(30).hex()}).encode() + b"\n" for _ in range(30_000))
    )
    put(tmp_path, f"a.jsonl{suffix}", whole[: len(whole) // 2])
    rows = found(tmp_path)
    assert 2_000 < len(rows) <= 15_000  # bzip2 loses at most a block of 900 kB
    assert reasons(tmp_path) == [(len(rows) + 1, "broken compression")] and "ends too early" in detail(tmp_path)


def test_rows_of_a_table_before_the_end_of_a_cut_file_are_kept(tmp_path: Path) -> None:
    content = b"text,n\n" + b"".join(b"%s,1\n" % os.urandom(30).hex().encode() for _ in range(1000))
    put(tmp_path, "a.csv.gz", gzip.compress(content)[:-200])
    rows = found(tmp_path)
    assert 900 < len(rows) < 1000 and rows[0].encode() in content
    assert reasons(tmp_path) == [(len(rows) + 2, "broken compression")]


def test_a_cut_text_is_no_document(tmp_path: Path) -> None:
    put(tmp_path, "a.txt.gz", gzip.compress(JSONL)[:-100])
    assert found(tmp_path) == [] and [reason for _, reason in reasons(tmp_path)] == ["broken compression"]


@pytest.mark.parametrize("suffix", FORMS)
def test_any_changed_byte_is_reported(tmp_path: Path, suffix: str) -> None:
    with_checksum = {zstd.CompressionParameter.checksum_flag: 1}  # as the command writes it
    whole = bytearray(COMPRESSORS[suffix](JSONL) if suffix != ".zst" else zstd.compress(JSONL, options=with_checksum))
    whole[len(whole) // 2] ^= 0xFF
    put(tmp_path, f"a.jsonl{suffix}", bytes(whole))
    found(tmp_path)
    assert "broken compression" in {reason for _, reason in reasons(tmp_path)}


def test_bytes_behind_the_end_are_reported(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl.gz", gzip.compress(JSONL) + b"and more")
    assert found(tmp_path) == ROWS and reasons(tmp_path) == [(3001, "broken compression")]


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.jsonl", ".gz"), ("a.jsonl", ".xz"), ("a.jsonl.gz", ".zst"), ("a.csv", ".bz2")]
)
def test_compression_is_seen_from_the_content(tmp_path: Path, name: str, suffix: str) -> None:
    content = JSONL if "jsonl" in name else b"text\n" + b"".join(f"{row}\n".encode() for row in ROWS)
    put(tmp_path, name, COMPRESSORS[suffix](content))
    assert found(tmp_path) == ROWS


def test_a_file_that_is_not_compressed_whatever_its_name_says_is_read(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl.gz", JSONL)
    put(tmp_path, "b.txt.xz", "Wide.".encode("utf-16"))
    put(tmp_path, "c.csv.zst", b"\x80\x02}q\x01")
    assert found(tmp_path) == [*ROWS, "Wide."]
    assert rejected(tmp_path / "out") == [("c.csv.zst", 0, "broken compression")]


@pytest.mark.parametrize(
    "name", ["a.tar.gz", "a.tgz", "a.tar.zst", "dump.gz", "a.parquet.gz", "a.lz4", "a.jsonl.gz.gz", "a.zip"]
)
def test_archives_are_for_the_user_to_unpack(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, gzip.compress(JSONL))
    assert found(tmp_path) == [] and reasons(tmp_path) == [(0, "archive")]


def test_a_bomb_ends_where_it_is_seen(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl.gz", gzip.compress(bytes(300_000_000), 9))
    put(tmp_path, "b.csv.gz", gzip.compress(b"text\n" + b"%s\n" % (b"a row " * 200) * 200_000, 9))
    documents, peak = load_apart(tmp_path / "in", tmp_path / "out")
    assert documents == 2 and texts_in(tmp_path / "out")[-1] == "Sound text."
    bombs = [(name, reason) for name, line, reason in rejected(tmp_path / "out") if reason != "duplicate text"]
    assert bombs == [("a.jsonl.gz", "too long"), ("b.csv.gz", "too long")]
    assert peak < 250


def test_a_page_that_grows_over_the_limit_is_too_long(tmp_path: Path) -> None:
    put(tmp_path, "a.html.gz", gzip.compress(b"<p>" + b"x" * 40_000_000))
    assert found(tmp_path) == [] and reasons(tmp_path) == [(0, "too long")]


def test_a_text_that_shrinks_well_is_no_bomb(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.jsonl.gz",
        gzip.compress(b"".join(b'{"text": "%d %s"}\n' % (n, b"x" * 300) for n in range(100_000))),
    )
    put(tmp_path, "b.txt.gz", gzip.compress(b"the same line\n" * 1_000_000))  # 14 MB, 300 times its size
    documents, _ = load_apart(tmp_path / "in", tmp_path / "out")
    assert documents == 100_000 + 1 + 1


def test_windows_that_need_much_memory_are_refused(tmp_path: Path) -> None:
    wide = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.compression_level: 1}
    frame = zstd.ZstdCompressor(options=wide)
    put(tmp_path, "a.jsonl.zst", frame.compress(JSONL) + frame.flush())
    large = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28, "mode": lzma.MODE_FAST, "nice_len": 2, "mf": lzma.MF_HC3}]
    header = lzma.compress(JSONL, filters=large)
    put(tmp_path, "b.jsonl.xz", header)
    assert found(tmp_path) == []
    assert [(name, reason) for name, _, reason in rejected(tmp_path / "out")] == [
        ("a.jsonl.zst", "broken compression"),
        ("b.jsonl.xz", "broken compression"),
    ]


def test_memory_does_not_grow_with_a_compressed_file(tmp_path: Path) -> None:
    peaks = []
    for name, count in (("small", 10_000), ("large", 100_000)):
        path = write_jsonl(tmp_path / f"{name}.jsonl", [f"{n} " + os.urandom(200).hex() for n in range(count)])
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        peaks.append(load_apart(path.with_suffix(".jsonl.gz"), tmp_path / name)[1])
    assert peaks[1] < peaks[0] + 40


@pytest.mark.parametrize("suffix", ["", *FORMS])
def test_progress_counts_the_bytes_of_the_file(tmp_path: Path, suffix: str) -> None:
    path = put(tmp_path, f"a.jsonl{suffix}", COMPRESSORS[suffix](JSONL) if suffix else JSONL)
    source, counted = Source(0, path, "jsonl", path.stat().st_size, 0), list[int]()
    assert b"".join(lines.read_chunks(source, counted.append)) == JSONL
    assert sum(counted) == source.size


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.sampled_from(FORMS), st.integers(1, 700))
def test_what_was_compressed_comes_back_in_any_portions(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, size: int
) -> None:
    path = tmp_path_factory.mktemp("stream") / f"a.txt{suffix}"
    path.write_bytes(COMPRESSORS[suffix](content[:size]) + COMPRESSORS[suffix](content[size:]))
    with open_stream(Source(0, path, "text", path.stat().st_size, 0)) as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == content


ARRAY = [
    {"text": "One [a] {b}.", "id": 1, "x": {"y": [1, {"z": "]"}]}},
    {"text": 'Two "q" \\.', "id": "b"},
    {"text": "Thrée."},
]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_an_array_of_objects_is_a_row_for_each(tmp_path: Path, name: str, indent: int, ascii_only: bool) -> None:
    put(tmp_path, name, json.dumps(ARRAY, indent=indent, ensure_ascii=ascii_only).encode())
    assert found(tmp_path) == [row["text"] for row in ARRAY] and reasons(tmp_path) == []


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize(
    "value",
    [
        {"data": ARRAY},
        {"meta": {"text": 1, "more": [{"text": "no"}]}, "tags": ["a"], "empty": [], "other": [{"a": 1}], "rows": ARRAY},
        {"train": ARRAY[:1], "test": ARRAY[1:]},
    ],
)
def test_an_object_may_hold_the_rows(tmp_path: Path, value: object, indent: int) -> None:
    put(tmp_path, "a.json", json.dumps(value, indent=indent).encode())
    assert found(tmp_path) == [row["text"] for row in ARRAY] and reasons(tmp_path) == []


def test_an_object_over_the_limit_that_holds_the_rows_is_read_as_a_stream(tmp_path: Path) -> None:
    members = [{"text": f"{n} " + "glon femp " * 100} for n in range(3000)]
    put(tmp_path, "a.json", json.dumps({"count": 3000, "data": members, "end": True}).encode())
    assert found(tmp_path, max_bytes=1 << 20) == [row["text"] for row in members] and reasons(tmp_path) == []


@pytest.mark.parametrize("between", ["", "\n", "\n\n", ",\n", " \r\n"])
@pytest.mark.parametrize("indent", [None, 2])
def test_objects_one_after_another_are_rows(tmp_path: Path, between: str, indent: int) -> None:
    put(tmp_path, "a.json", between.join(json.dumps(row, indent=indent) for row in ARRAY).encode())
    assert found(tmp_path) == [row["text"] for row in ARRAY] and reasons(tmp_path) == []


def test_pretty_printed_objects_in_a_jsonl_file_are_rows(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", "\n".join(json.dumps(row, indent=1) for row in ARRAY).encode())
    assert found(tmp_path) == [row["text"] for row in ARRAY]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    put(tmp_path, "a.json", json.dumps({"text": "One.", "parts": [{"text": "no"}]}, indent=2).encode())
    assert found(tmp_path) == ["One."]


def test_conversations_are_read_from_json(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"messages": talk}]}))
    (tmp_path / "b.json").write_text(json.dumps({"messages": talk + talk}, indent=1))
    load([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "out", messages_column="messages")
    assert rejected(tmp_path / "out") == []


def test_wrong_elements_are_rejected_by_their_number(tmp_path: Path) -> None:
    elements = [
        '{"text": "One.", "id": 1}',
        '{"text": 2, "id": 2}',
        '{"body": "no", "id": 3}',
        '"four"',
        "5, null",
        "[]",
        '{"text": "Eight." "id": 8}',
        '{"text": "Nine.", "id": NaN}',
        '{"text": "Ten.", "id": 10, "score": NaN, "best": -Infinity}',
        '{"text": "Eleven.", "id": 1e999}',
        '{"text": "Twelve.", "id": ' + "9" * 5000 + "}",
        '{"text": "\\ud800", "id": 13}',
        '{"text": "Last.", "id": 14}',
    ]
    put(tmp_path, "a.json", f"[{', '.join(elements)}]".encode())
    with_ids = [
        (2, "wrong type"), (3, "missing column"), (4, "wrong type"), (7, "wrong type"), (8, "broken JSON"),
        (9, "wrong type"), (11, "wrong type"), (12, "wrong type"), (13, "broken JSON"),
    ]  # fmt: skip
    load(tmp_path / "in" / "a.json", tmp_path / "out", id_column="id")
    assert texts_in(tmp_path / "out") == ["One.", "Ten.", "Last."]
    rows = [(line, reason) for line, reason in reasons(tmp_path)]
    assert [row for row in rows if row[0] not in {5, 6, 9}] == [row for row in with_ids if row[0] != 9]


@pytest.mark.parametrize("indent", [0, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_element_that_is_not_closed_costs_itself(tmp_path: Path, indent: int, wrapped: bool) -> None:
    rows = [{"text": f"Row {n}."} for n in range(2000)]
    content = json.dumps({"data": rows} if wrapped else rows, indent=indent)
    at = content.index('"Row 7."')
    put(tmp_path, "a.json", (content[:at] + content[at + 9 :].replace("}", "", 1)).encode())
    assert found(tmp_path) == [row["text"] for n, row in enumerate(rows) if n != 7]
    assert (8, "broken JSON") in reasons(tmp_path)


@pytest.mark.parametrize("lines_each", [1, 3])
def test_elements_after_a_broken_one_come_through_beyond_the_limit_too(tmp_path: Path, lines_each: int) -> None:
    rows = [
        json.dumps({"text": f"{n} " + "glon femp " * 50}, indent=2 if lines_each == 3 else None) for n in range(6000)
    ]
    rows[5] = rows[5][:-1]
    put(tmp_path, "a.json", ("[\n" + ",\n".join(rows) + "\n]\n").encode())
    assert len(found(tmp_path, max_bytes=1 << 20)) == 5999
    assert reasons(tmp_path)[0] == (6, "broken JSON")


def test_a_cut_array_gives_the_rows_before(tmp_path: Path) -> None:
    for indent in (None, 1):
        content = json.dumps({"data": [{"text": f"Row {n} of {indent}."} for n in range(100)]}, indent=indent)
        put(tmp_path, f"{indent}.json", content[: content.index("Row 50")].encode())
    assert len(found(tmp_path)) == 100
    assert {reason for _, reason in reasons(tmp_path)} == {"broken JSON"}


@pytest.mark.parametrize("content", ["[" * 3_000_000, '{"a":' * 500_000, '[{"text": "' + "[" * 2_000_000, "[{}" * 9999])
def test_deep_brackets_are_not_followed(tmp_path: Path, content: str) -> None:
    put(tmp_path, "a.json", content.encode())
    assert found(tmp_path) == [] and reasons(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", "[[]]", "not json", "[1, 2", "}", "]]", '"', '{"text', "\ufeff"]
)
def test_a_json_file_that_gives_nothing_is_listed(tmp_path: Path, content: str) -> None:
    put(tmp_path, "a.json", content.encode())
    assert found(tmp_path) == [] and len(reasons(tmp_path)) >= 1


def test_an_array_of_a_million_numbers_is_rejected_in_short(tmp_path: Path) -> None:
    put(tmp_path, "a.json", json.dumps([*range(1_000_000), {"text": "Last."}]).encode())
    assert found(tmp_path, max_bytes=1 << 20) == ["Last."]
    assert len(reasons(tmp_path)) < 20


def test_a_json_file_of_lines_is_read_by_lines(tmp_path: Path) -> None:
    put(tmp_path, "a.json", b'{"text": "One."}\n{"text": "Tw\n{"text": "Three."}\n\n{"text": "Four."}\n')
    assert found(tmp_path) == ["One.", "Three.", "Four."] and reasons(tmp_path) == [(2, "broken JSON")]


def test_an_object_with_more_behind_it_is_broken(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", b'{"text": "One."}\n{"body": 1} {\n{"text": 1} x\n')
    assert found(tmp_path) == ["One."]
    assert reasons(tmp_path) == [(2, "broken JSON"), (3, "wrong type")]


def test_an_element_over_the_limit_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("w") as file:
        file.write('[{"text": "first"}, {"text": "')
        for _ in range(200):
            file.write("x" * 1_000_000)
        file.write('"}, {"text": "last"}]')
    documents, peak = load_apart(tmp_path / "a.json", tmp_path / "out")
    assert documents == 2 and rejected(tmp_path / "out") == [("a.json", 2, "too long")] and peak < 250


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.tuples(st.text(max_size=20), values), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(
    objects,
    st.sampled_from([None, 0, 1]),
    st.booleans(),
    st.sampled_from(["array", "object", "row"]),
    st.integers(1, 50),
)
def test_json_in_any_chunks_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[tuple[str, object]],
    indent: int | None,
    ascii_only: bool,
    form: str,
    size: int,
) -> None:
    folder = tmp_path_factory.mktemp("json")
    rows = [{"other": value, "text": f"{n} {text}"} for n, (text, value) in enumerate(members)]
    written = [json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in rows]
    content = {
        "array": f"[{','.join(written)}]",
        "object": f'{{"d": [{",".join(written)}]}}',
        "row": "\n".join(written),
    }[form]
    put(folder, "a.json", content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", size)
        patch.setattr(lines, "_HEAD_BYTES", size + 3)
        assert found(folder) == [clean(str(row["text"])) for row in rows]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*'[]{}",:\\\n 0', "NaN", '{"text": "a"', '\n{"text": "b"}'])),
    st.sampled_from(["json", "jsonl"]),
)
def test_any_brackets_are_rejected_or_read(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("json")
    put(folder, f"a.{suffix}", "".join(pieces).encode())
    assert found(folder) or reasons(folder)


def test_a_file_that_disappears_or_is_refused_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, pipe = put(tmp_path, "a.jsonl", JSONL), put(tmp_path, "b.csv", b"text\nOne.\n")
    sources = find_sources([str(tmp_path / "in")], out=tmp_path / "out")
    gone.unlink()
    pipe.unlink()
    os.mkfifo(pipe)
    monkeypatch.setattr("test_corpora.find_sources", lambda *_, **__: sources)
    assert found(tmp_path) == []
    assert reasons(tmp_path) == [(0, "unreadable"), (0, "unreadable")]


def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "a.jsonl", JSONL)
    sources = find_sources([str(tmp_path / "in")], out=tmp_path / "out")
    path.write_bytes(JSONL[: len(JSONL) // 2])
    monkeypatch.setattr("test_corpora.find_sources", lambda *_, **__: sources)
    rows = found(tmp_path)
    assert rows == ROWS[: len(rows)] and len(rows) > 1000
    assert reasons(tmp_path)[-1] == (0, "unreadable") and "changed" in detail(tmp_path, -1)


def test_a_name_that_is_not_utf8_is_shown_with_its_bytes(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b"caf\xe9.txt"), b"first")
    put(tmp_path, os.fsdecode(b"bad\xe9.jsonl"), b"no json\n")
    assert found(tmp_path) == ["first"]
    assert rejected(tmp_path / "out") == [("bad\\xe9.jsonl", 1, "broken JSON")]


def test_a_page_of_50_mb_in_one_line_is_too_long(tmp_path: Path) -> None:
    put(tmp_path, "a.html", b"<p>" + b"word " * 10_000_000)
    put(tmp_path, "b.json", b'{"text": "' + b"word " * 10_000_000 + b'"}')
    assert found(tmp_path) == []
    assert sorted(reasons(tmp_path)) == [(0, "too long"), (1, "too long")]


def test_zlib_without_a_gzip_header_is_no_gzip(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl.gz", zlib.compress(JSONL))
    assert found(tmp_path) == [] and reasons(tmp_path) == [(0, "broken compression")]
