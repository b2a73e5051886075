"""The report of an import, and `inspect`: everything is counted, nothing is lost in silence, terminals are safe."""

import json
import os
import re
from functools import partial
from pathlib import Path

import pytest
from test_cli import refuse
from test_corpora import load, rejected, resumable, write_jsonl

from benchmarks.languages import SENTENCES
from data.corpora import lines
from data.corpora.importer import find_summary, import_key
from data.corpora.ingest import Bookmark, write_bookmark
from data.corpora.reading import ImportSettings
from data.corpora.sources import find_sources
from data.preview import preview, rejected_rows
from data.store import ShardWriter, read_manifest
from pipeline.cli import main


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Texts in two languages, a table, pictures and styles, files that give nothing."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text(" ".join(SENTENCES["de"]))
    (folder / "b.txt").write_text(" ".join(SENTENCES["fr"]))
    write_jsonl(folder / "c.jsonl", ["one two", " ".join(SENTENCES["de"])])
    (folder / "d.txt").write_text("\u200b\n")
    (folder / "e.zip").write_bytes(b"PK")
    for name in ("f.png", "g.png", "h.css", "Makefile"):
        (folder / name).write_bytes(b"\x00")
    return folder


def report(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["data", *words]) == 0
    return capsys.readouterr().out


def test_the_summary_counts_by_kind_and_language(corpus: Path, tmp_path: Path) -> None:
    summary = load(corpus, tmp_path / "out")
    assert (summary.num_files, summary.num_documents) == (4, 3)
    assert summary.files == {"text": 3, "jsonl": 1} and summary.documents == {"text": 2, "jsonl": 1}
    assert summary.languages == {"de": 1, "fr": 1, "": 1}
    assert summary.num_rejected == {"archive": 1, "empty": 1, "duplicate text": 1}
    assert summary.shortest | {"id": ""} == {"id": "", "source": str(corpus / "c.jsonl"), "words": 2, "characters": 7}
    french = len(" ".join(SENTENCES["fr"]))
    assert summary.longest["source"] == str(corpus / "b.txt") and summary.longest["characters"] == french
    assert (summary.num_fruitless, summary.fruitless) == (2, [str(corpus / "e.zip"), str(corpus / "d.txt")])
    assert summary.others == {".png": 2, ".css": 1, "no suffix": 1}


def test_the_manifest_holds_the_summary(corpus: Path, tmp_path: Path) -> None:
    summary = load(corpus, tmp_path / "out")
    stored = read_manifest(tmp_path / "out")["summary"]
    assert stored["languages"] == {"de": 1, "fr": 1, "": 1} and stored["num_fruitless"] == 2
    found = find_sources([str(corpus)], out=tmp_path / "out")
    assert find_summary(tmp_path / "out", import_key(found, ImportSettings())) == summary


def test_the_report_says_it_all(capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path) -> None:
    shown = report(capsys, "import", str(corpus), "--out", str(tmp_path / "out"))
    assert re.search(r"text +3 +2\b", shown) and re.search(r"jsonl +1 +1\b", shown)
    assert re.search(r"de +1\b", shown) and re.search(r"unknown +1\b", shown)
    assert re.search(r"longest +\d+ words, 2\d\d characters", shown) and "2 words, 7 characters" in shown
    assert f"1 empty; first {corpus / 'd.txt'}, line 1: no text" in shown
    assert "2 files gave no document" in shown
    assert f"{corpus / 'd.txt'}: empty" in shown and f"{corpus / 'e.zip'}: archive" in shown
    assert "4 files of other kinds: 2 .png, 1 .css, 1 no suffix" in shown
    again = report(capsys, "import", str(corpus), "--out", str(tmp_path / "out"))
    assert again.endswith(shown) and "already finished" in again


def test_near_duplicates_and_repeated_lines_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    notice = "We use cookies to remember your settings."
    text = " ".join(f"w{n}" for n in range(100))
    write_jsonl(tmp_path / "a.jsonl", [text, text + " end", *(f"{notice}\nOtter {n} swims." for n in range(30))])
    shown = report(capsys, "import", str(tmp_path / "a.jsonl"), "--dedup", "--out", str(tmp_path / "out"))
    assert "1 near-duplicates of other documents were left out" in shown
    assert "1 lines in a sample of 31 documents; --drop-repeated-lines removes" in shown
    assert f"30 documents: {notice}" in shown
    flags = ["--drop-repeated-lines", "--out", str(tmp_path / "other")]
    shown = report(capsys, "import", str(tmp_path / "a.jsonl"), *flags)
    assert "30 lines removed, 1 different" in shown and f"30 documents: {notice}" in shown


def test_many_files_without_documents_are_listed_in_part(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number:02}.txt").write_text(" \n")
    (tmp_path / "in" / "good.txt").write_text("good")
    shown = report(capsys, "import", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert "30 files gave no document" in shown and "09.txt: empty" in shown and "and 20 more" in shown
    assert "10.txt" not in shown
    stored = read_manifest(tmp_path / "out")["summary"]
    assert stored["num_fruitless"] == 30 and len(stored["fruitless"]) == 20


def test_a_file_is_fruitful_whose_documents_came_first(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    write_jsonl(tmp_path / "b.jsonl", ["one"])
    summary = load([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out")
    assert summary.fruitless == [str(tmp_path / "b.jsonl")]


def test_a_folder_of_other_kinds_alone_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    words = ("data", "import", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert "1 file of other kinds: 1 .png" in refuse(capsys, *words)
    assert "unknown kind" in refuse(capsys, "data", "import", str(tmp_path / "in" / "a.png"), *words[-2:])


def test_a_resumed_import_reports_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.store.ShardWriter", partial(ShardWriter, shard_bytes=300_000))
    monkeypatch.setattr("data.corpora.ingest.BLOCK_BYTES", 100_000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100_000)
    source = resumable(tmp_path / "files")
    (source / "0.txt").write_text("\u200b")
    (source / "1.txt").write_text(" ".join(SENTENCES["de"]))
    whole = load(source, tmp_path / "whole")

    def mark_and_die(folder: Path, mark: Bookmark) -> None:
        write_bookmark(folder, mark)
        if mark.num_shards == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("data.corpora.ingest.write_bookmark", mark_and_die)
    with pytest.raises(KeyboardInterrupt):
        load(source, tmp_path / "out")
    resumed = load(source, tmp_path / "out")
    assert resumed == whole
    assert whole.languages["de"] == 1 and str(source / "0.txt") in whole.fruitless


def test_names_that_are_not_unicode_are_told_and_inspected(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bad = os.fsencode(tmp_path / "in") + b"/caf\xe9.txt"
    with open(bad, "wb") as file:  # noqa: PTH123 - pathlib takes no bytes
        file.write(b"not \xe9 UTF-8")
    (tmp_path / "in" / "a.csv").write_bytes(b"text\nGood row.\nBad \xe9 row.\nLast row.\n")
    shown = report(capsys, "import", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert "caf\\xe9.txt" in shown
    assert {row[2] for row in rejected(tmp_path / "out")} == {"not UTF-8"}
    shown = report(capsys, "inspect", str(tmp_path / "out"))
    assert "Good row." in shown and "Last row." in shown
    shown = report(capsys, "inspect", str(tmp_path / "out"), "--rejected")
    assert "caf\\xe9.txt" in shown and "2 not UTF-8" in shown


def test_rejects_of_earlier_versions_are_read(tmp_path: Path) -> None:
    row = {"file": "caf\udce9.txt", "line": 0, "reason": "not UTF-8", "detail": "", "excerpt": ""}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    found = rejected_rows(tmp_path)
    assert found and found.counts == {"not UTF-8": 1}


def test_nothing_in_a_file_is_obeyed_by_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a[bold]\x1b[2J.jsonl").write_text(
        'no \x1b[31m json [/red]\n{"text": "Text [bold]here[/nope]"}\n'
    )
    write_jsonl(tmp_path / "in" / "b.jsonl", ["x"], text=1)
    for words in (("import", str(tmp_path / "in"), "--out", str(tmp_path / "out")), ("inspect", str(tmp_path / "out"))):
        shown = report(capsys, *words)
        assert "\x1b" not in shown and "a[bold]\\x1b[2J.jsonl" in shown
    assert "Text [bold]here[/nope]" in shown
    shown = report(capsys, "inspect", str(tmp_path / "out"), "--rejected")
    assert "no \\x1b[31m json [/red]" in shown and "\x1b" not in shown


def test_inspect_shows_random_rows_that_the_seed_chooses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [f"text {n}" for n in range(1000)])
    load(tmp_path / "a.jsonl", tmp_path / "out")

    def shown(*flags: str) -> list[int]:
        return [
            int(n) for n in re.findall(r"  text +text (\d+)", report(capsys, "inspect", str(tmp_path / "out"), *flags))
        ]

    assert len(shown()) == 3 and shown() == shown() != [0, 1, 2]
    assert len(shown("--rows", "20")) == 20 and shown("--rows", "5") != shown("--rows", "5", "--seed", "1")
    assert sorted(shown("--rows", "5000")) == list(range(1000))
    assert "--rows" in refuse(capsys, "data", "inspect", str(tmp_path / "out"), "--rows", "0")


def test_random_rows_come_from_all_shards(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [f"text {n}" for n in range(200)])
    load(tmp_path / "a.jsonl", tmp_path / "out")
    (one,) = preview(tmp_path / "out", num_rows=100, seed=3)
    numbers = [int(row["text"].split()[1]) for row in one.rows]
    assert numbers == sorted(set(numbers)) and len(numbers) == 100


def test_inspect_shows_rejected_rows_of_each_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + "bad\n" * 9 + '{"text": 1}\n')
    load(tmp_path / "a.jsonl", tmp_path / "out")
    shown = report(capsys, "inspect", str(tmp_path / "out"), "--rejected", "--rows", "4")
    assert "9 broken JSON" in shown and "1 wrong type" in shown
    assert [int(n) for n in re.findall(r"a\.jsonl, line (\d+):", shown)] == [2, 3, 4, 5, 11]
    write_jsonl(tmp_path / "b.jsonl", ["good"])
    load(tmp_path / "b.jsonl", tmp_path / "sound")
    assert "no rejected rows" in refuse(capsys, "data", "inspect", str(tmp_path / "sound"), "--rejected")
