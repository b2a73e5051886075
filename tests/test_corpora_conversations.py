"""Imports of conversations: the same from every kind of table; rows that are none are rejected with their line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli import refuse
from test_corpora import check_resuming, load, rejected

from data.conversations import Message, read_messages
from data.corpora.kinds import KINDS
from data.errors import InputError
from data.records import Conversation, Document
from data.store import read_folder
from pipeline.cli import main

ASKED = {"role": "user", "content": "Wer ist König?"}
TALKS: list[list[Message]] = [
    [ASKED, {"role": "assistant", "content": "Louis."}],
    [{"role": "system", "content": "Be brief."}, ASKED, {"role": "assistant", "content": "He.\n"}, ASKED],
]
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
BAD_ROWS: list[tuple[Any, str]] = [
    ("hello", "no conversation"),
    ([ASKED], "no conversation"),
    ([{"role": "tool", "content": "1"}, *TALKS[0]], "no conversation"),
    ([{"role": "user", "content": [{"type": "image"}]}, *TALKS[0]], "no conversation"),
    ([{"role": "user", "content": 10**40}, *TALKS[0]], "no conversation"),
    ([{"text": "x"}], "no conversation"),
    (None, "no conversation"),
    ({"role": "assistant", "content": "x"}, "no conversation"),
    (TALKS[0], "duplicate text"),
]


def talks_in(out: Path) -> list[list[Message]]:
    return [read_messages(row.text) for row in read_folder(out / "documents", Conversation)]


def write_lines(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"messages": value}) + "\n" for value in values))
    return path


def sharegpt(talk: list[Message]) -> list[dict[str, str]]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in talk]


def write_parquet(path: Path, values: list[Any], kind: pa.DataType) -> None:
    pq.write_table(pa.table({"messages": pa.array(values, kind), "n": range(len(values))}), path, row_group_size=2)


def write_arrow(path: Path, values: list[Any], kind: pa.DataType) -> None:
    table = pa.table({"n": range(len(values)), "messages": pa.array(values, kind)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_stream(path: Path, values: list[Any], kind: pa.DataType) -> None:
    table = pa.table({"messages": pa.array(values, kind)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_saved(path: Path, values: list[Any], kind: pa.DataType) -> None:
    datasets.Dataset(pa.table({"messages": pa.array(values, kind)})).save_to_disk(str(path))


Write = Callable[[Path, list[Any], pa.DataType], None]
TABLES: dict[str, Write] = {
    "a.parquet": write_parquet,
    "a.arrow": write_arrow,
    "b.feather": write_stream,
    "saved": write_saved,
}
NESTED = {
    "plain": MESSAGES,
    "large": pa.large_list(pa.struct([("content", pa.large_string()), ("role", pa.large_string())])),
    "more keys": pa.list_(
        pa.struct(
            [
                ("at", pa.timestamp("ns")),
                ("role", pa.string()),
                ("calls", pa.list_(pa.int8())),
                ("content", pa.string()),
            ]
        )
    ),
    "views": pa.list_(pa.struct([("role", pa.string_view()), ("content", pa.string_view())])),
}
CASES = [(name, kind) for name in TABLES for kind in NESTED if (name, kind) != ("a.parquet", "views")]  # not written


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_kind_of_table_gives_the_conversations_of_json_lines(tmp_path: Path, name: str, kind: str) -> None:
    load(write_lines(tmp_path / "a.jsonl", TALKS), tmp_path / "lines", messages_column="messages")
    assert talks_in(tmp_path / "lines") == TALKS
    TABLES[name](tmp_path / name, [TALKS[0], None, [], [None], [ASKED], TALKS[1]], NESTED[kind])
    summary = load(tmp_path / name, tmp_path / "out", messages_column="messages")
    found, wanted = ([*read_folder(tmp_path / out / "documents", Conversation)] for out in ("out", "lines"))
    assert found == wanted
    assert summary.num_words == len("Wer ist König? Louis. Be brief. Wer ist König? He. Wer ist König?".split())
    reasons = [(line, reason) for _, line, reason in rejected(tmp_path / "out")]
    assert reasons == [(2, "empty"), (3, "no conversation"), (4, "no conversation"), (5, "no conversation")]


@pytest.mark.parametrize("in_one_block", [True, False])
def test_a_row_that_is_no_conversation_is_rejected_with_its_line(tmp_path: Path, in_one_block: bool) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*TALKS, *(value for value, _ in BAD_ROWS)])
    expected = [("a.jsonl", number, reason) for number, (_, reason) in enumerate(BAD_ROWS, 3)]
    if not in_one_block:
        lines = ('{"other": 1}', '{"messages": [', '{"messages": [{"role": "user", "content": "\\ud800"}]}')
        path.write_text(path.read_text() + "\n".join(lines))
        reasons = ("missing column", "broken JSON", "broken JSON")
        expected += [("a.jsonl", number, reason) for number, reason in enumerate(reasons, 3 + len(BAD_ROWS))]
    load(path, tmp_path / "out", messages_column="messages")
    assert talks_in(tmp_path / "out") == TALKS
    assert sorted(rejected(tmp_path / "out")) == expected


def test_sharegpt_and_json_in_a_string_are_the_same_conversations(tmp_path: Path) -> None:
    spelled = [sharegpt(talk) for talk in TALKS]
    kind = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"conversations": talk, "id": n}) + "\n" for n, talk in enumerate(spelled)))
    pq.write_table(pa.table({"conversations": pa.array(spelled, kind)}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"conversations": list(map(json.dumps, spelled))}), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.parquet", "c.parquet"):
        load(tmp_path / name, tmp_path / name[0], messages_column="conversations")
        assert talks_in(tmp_path / name[0]) == TALKS
    load(path, tmp_path / "ids", messages_column="conversations", id_column="id")
    assert [row.doc_id for row in read_folder(tmp_path / "ids" / "documents", Conversation)] == ["0", "1"]


def test_files_without_a_column_of_messages_are_rejected_by_their_names(tmp_path: Path) -> None:
    others = sorted(suffix for suffix, kind in KINDS.items() if kind not in {"jsonl", "json", "parquet", "arrow"})
    for suffix in others:
        (tmp_path / f"a{suffix}").write_text(f'messages\n"{json.dumps(TALKS[0])}"\n')
    write_lines(tmp_path / "b.ndjson", TALKS)
    write_parquet(tmp_path / "c.parquet", [1, 2], pa.int64())
    write_parquet(
        tmp_path / "d.parquet", [[{"role": "user", "body": "x"}]], pa.list_(pa.map_(pa.string(), pa.string()))
    )
    load(tmp_path, tmp_path / "out", messages_column="messages")
    assert talks_in(tmp_path / "out") == TALKS
    assert sorted(rejected(tmp_path / "out")) == [
        *((f"a{suffix}", 0, "no conversation") for suffix in others),
        ("c.parquet", 0, "wrong type"),
        ("d.parquet", 0, "wrong type"),
    ]


def test_bytes_and_sizes_are_checked_row_by_row(tmp_path: Path) -> None:
    """Of a table: a text in no UTF-8, and a conversation over the limit; of lines: the line."""
    long = [ASKED, {"role": "assistant", "content": "x" * (1 << 20)}]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.binary())]))
    talks = [TALKS[0], TALKS[0], long, TALKS[1]]
    rows = [[{**message, "content": message["content"].encode()} for message in talk] for talk in talks]
    rows[1][1]["content"] = b"\xff"
    table = pa.table({"messages": pa.array(rows, kind).view(MESSAGES)})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_lines(tmp_path / "b.jsonl", [*TALKS, long])
    load(tmp_path, tmp_path / "out", messages_column="messages", max_bytes=1 << 20)
    assert talks_in(tmp_path / "out") == TALKS
    expected = [("a.arrow", 2, "not UTF-8"), ("a.arrow", 3, "too long"), ("b.jsonl", 3, "too long")]
    assert sorted(row for row in rejected(tmp_path / "out") if row[2] != "duplicate text") == expected


def test_offsets_of_messages_that_lead_out_of_their_buffer_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_stream(path, [[ASKED, {"role": "assistant", "content": "x" * 1000}]], MESSAGES)
    content = path.read_bytes()
    first = len(ASKED["content"].encode())
    ends = b"".join(end.to_bytes(4, "little") for end in (first, first + 1000))
    assert content.count(ends) == 1
    path.write_bytes(content.replace(ends, ends[:4] + (1 << 30).to_bytes(4, "little")))
    with pytest.raises(InputError, match="broken Arrow file"):
        load(path, tmp_path / "out", messages_column="messages")


@pytest.mark.parametrize(
    "setting",
    [
        {"text_column": "body"},
        {"similarity": 0.8},
        {"chunk_tokens": 100},
        {"tokenizer": "models/tiny"},
        {"split": "independent"},
        {"id_column": "messages"},
    ],
    ids=str,
)
def test_settings_that_conversations_do_not_have_are_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"no effect on conversations|its own id"):
        load(write_lines(tmp_path / "a.jsonl", TALKS), tmp_path / "out", messages_column="messages", **setting)
    assert not (tmp_path / "out").exists()


def test_a_killed_import_of_conversations_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    talks: list[Any] = [[ASKED, {"role": "assistant", "content": f"{n} " + "x" * 400}] for n in range(4_000)]
    talks[::300] = [[ASKED]] * len(talks[::300])
    write_lines(folder / "a.jsonl", [*talks[:2_000], *talks[:50]])
    (folder / "b.txt").write_text("no conversation")
    write_parquet(folder / "c.parquet", talks[2_000:], MESSAGES)
    starts = check_resuming(folder, tmp_path, monkeypatch, {"messages_column": "messages"})
    assert len(starts) > 4 and {mark.source for mark in starts} == {0, 2}
    assert any(mark.num_rejected_rows for mark in starts)


def test_conversations_are_imported_shown_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was exported is imported again as the same conversations; as documents they are not read."""
    path, out = write_lines(tmp_path / "a.jsonl", [*TALKS, "hello"]), tmp_path / "out"
    words = ["data", "import", str(path), "--messages-column", "messages", "--out", str(out)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"conversations +2 with 13 words", shown) and f"first {path}, line 3: " in shown
    assert json.loads((out / "documents" / "manifest.json").read_text())["record"] == "Conversation"
    assert main(["data", "inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Conversation, complete" in shown and "1 no conversation" in shown
    assert "user: Wer ist König? assistant: Louis." in shown and '"role"' not in shown
    for kind in ("jsonl", "parquet"):
        exported = tmp_path / kind
        assert main(["data", "export", str(out), "--to", kind, "--out", str(exported)]) == 0
        (file,) = (exported / "conversations").iterdir()
        load(file, tmp_path / f"again-{kind}", messages_column="text", id_column="doc_id")
        found, wanted = ([*read_folder(of / "documents", Conversation)] for of in (tmp_path / f"again-{kind}", out))
        assert found == wanted
    with pytest.raises(InputError, match="Conversation rows"):
        list(read_folder(out / "documents", Document))


@pytest.mark.parametrize("flags", [("--dedup",), ("--chunk-tokens", "50"), ("--split-sentences", "independent")])
def test_flags_without_effect_on_conversations_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    path, out = write_lines(tmp_path / "a.jsonl", TALKS), tmp_path / "out"
    words = ("data", "import", str(path), "--messages-column", "messages", "--out", str(out))
    assert flags[0] in refuse(capsys, *words, *flags)
    assert not out.exists()
