"""Languages of documents: detected, stored, inherited by parts; "" where they cannot be told."""

from pathlib import Path

import pytest
from test_corpora import load, write_jsonl
from test_corpora_conversations import write_lines

from benchmarks.languages import SENTENCES
from data.corpora.arrays import string_array
from data.corpora.languages import LanguageDetector, detect_languages
from data.errors import ResumableError
from data.records import Conversation, Document
from data.store import read_folder


def detected(texts: list[str]) -> list[str]:
    found: list[str] = detect_languages(string_array(texts)).to_pylist()
    return found


@pytest.mark.parametrize("language", SENTENCES)
def test_languages_are_told_apart(language: str) -> None:
    sentences = SENTENCES[language]
    assert detected([" ".join(sentences), "\n".join(sentences * 3)]) == [language, language]


def test_most_single_sentences_are_told_and_none_wrongly() -> None:
    pairs = [(language, sentence) for language, of_one in SENTENCES.items() for sentence in of_one]
    found = detected([sentence for _, sentence in pairs])
    told = [(language, code) for (language, _), code in zip(pairs, found, strict=True) if code]
    assert len(told) >= 0.95 * len(pairs)
    assert [pair for pair in told if pair[0] != pair[1]] == []


@pytest.mark.parametrize("text", ["", "Ok.", "glon femp troff", "123 456 789", "x = y + z;", "\x01\ufffe"])
def test_what_cannot_be_told_has_no_language(text: str) -> None:
    assert detected([text]) == [""]


def test_the_middle_decides_not_the_menu() -> None:
    menu = "Home About Contact Sitemap Imprint\n"
    assert detected([menu + " ".join(SENTENCES["de"] * 2)]) == ["de"]


def test_the_column_and_the_report_have_the_language(tmp_path: Path) -> None:
    members = [" ".join(sentences) for sentences in SENTENCES.values()]
    write_jsonl(tmp_path / "a.jsonl", [*members, "glon femp troff"])
    summary = load(tmp_path / "a.jsonl", tmp_path / "out")
    documents = list(read_folder(tmp_path / "out" / "documents", Document))
    assert [document.language for document in documents] == [*SENTENCES, ""]
    assert summary.languages == {**dict.fromkeys(SENTENCES, 1), "": 1}


def test_the_language_stays_with_its_row_when_others_are_rejected(tmp_path: Path) -> None:
    german, french = (" ".join(SENTENCES[language]) for language in ("de", "fr"))
    write_jsonl(tmp_path / "a.jsonl", ["", german, german, " ", french])
    load(tmp_path / "a.jsonl", tmp_path / "out")
    assert [document.language for document in read_folder(tmp_path / "out" / "documents", Document)] == ["de", "fr"]


def test_parts_have_the_language_of_their_document(tmp_path: Path) -> None:
    german, french = (" ".join(SENTENCES[language]) for language in ("de", "fr"))
    write_jsonl(tmp_path / "a.jsonl", [german, "glon. femp. troff.", french])
    summary = load(tmp_path / "a.jsonl", tmp_path / "out", split="independent")
    documents = list(read_folder(tmp_path / "out" / "documents", Document))
    assert [document.language for document in documents] == ["de"] * 4 + [""] * 3 + ["fr"] * 4
    assert summary.documents == {"jsonl": 11}


def test_conversations_have_the_language_of_what_is_said(tmp_path: Path) -> None:
    german = SENTENCES["de"]
    talk = [{"role": "user", "content": german[0]}, {"role": "assistant", "content": german[1]}]
    write_lines(tmp_path / "a.jsonl", [talk])
    load(tmp_path / "a.jsonl", tmp_path / "out", messages_column="messages")
    (talk_read,) = read_folder(tmp_path / "out" / "documents", Conversation)
    assert talk_read.language == "de"


def test_a_process_of_its_own_finds_the_same() -> None:
    texts = [*(" ".join(sentences) for sentences in SENTENCES.values()), "", "ß" * 300, "é😀" * 99]
    rows = string_array((texts * 4000)[:4000])
    with LanguageDetector() as detector:
        found = [detector.begin(rows.slice(start, 1000)).result() for start in range(0, 4000, 1000)]
        assert detector.begin(string_array([])).result().to_pylist() == []
        assert detector._worker is not None
        detector._worker.kill()
        detector._worker.wait()
        with pytest.raises(ResumableError):
            detector.begin(rows).result()
    assert [code for part in found for code in part.to_pylist()] == detect_languages(rows).to_pylist()
