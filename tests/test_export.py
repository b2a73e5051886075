"""Exports: what `datasets.load_dataset` reads from them is what is stored in the folders."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import refuse

from data.errors import InputError
from data.export import export
from data.records import Augmentation, Document, Question
from data.store import seal, write_folder, write_json, write_shard
from data.suites import read_suite_file
from pipeline.cli import main

QUESTIONS = [
    Question("q0", "w", "as trained", "recall", "glon are", ("femp", "troff"), 0, "f0", ()),
    Question("q1", "w", "as-trained", "turned", "femp are", ("glon", "yomp", "全"), 2, "f1", ("d0", "d1")),
    Question("q2", "w", "as trained", "recall", "yomp are", ("femp", "troff"), 1, "f2", ("d1",)),
]
DOCUMENTS = [Document(f"d{number}", f"text {number}\nwith é", f"w{number % 2}") for number in range(5)]
AUGMENTATION = Augmentation("a", "w", "local/reverse", ("d",), "s", "t", "", "kept", 0.5, "stop", "m", "h", "c", 0.7, 3)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Documents in two shards, questions in two splits whose names are alike, and a manifest."""
    folder = tmp_path / "set"
    write_shard(folder / "documents" / "part-00000.arrow", Document, DOCUMENTS[:2])
    write_shard(folder / "documents" / "part-00001.arrow", Document, DOCUMENTS[2:])
    seal(folder / "documents", Document)
    write_folder(folder / "questions", Question, QUESTIONS)
    write_json(folder / "manifest.json", {"set": "small", "seed": 3, "num_questions": {"as trained": 2}})
    return folder


def load(folder: Path, part: str | None = None) -> dict[str, list[dict[str, object]]]:
    """What `load_dataset` finds, through a new cache beside the export.

    `datasets` keys its copies by the times at which files changed, which a clock's tick can make equal for two exports.
    """
    with TemporaryDirectory(dir=folder.parent) as cache:
        found = datasets.load_dataset(str(folder), part, cache_dir=cache)
        return {name: rows.to_list() for name, rows in found.items()}


def as_rows(records: list[object]) -> list[dict[str, object]]:
    return [
        {name: list(v) if isinstance(v := getattr(row, name), tuple) else v for name in row.__dataclass_fields__}
        for row in records
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "card"])
def test_load_dataset_reads_what_was_made(made: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    assert main(["data", "export", str(made), "--to", kind, "--out", str(out)]) == 0
    assert load(out) == load(out, "documents") == {"train": as_rows(DOCUMENTS)}
    expected = {"as_trained": as_rows(QUESTIONS[::2]), "as_trained_2": as_rows(QUESTIONS[1:2])}
    assert load(out, "questions") == expected
    suffixes = {path.suffix for path in out.glob("*/*")}
    assert suffixes == {".jsonl" if kind == "jsonl" else ".parquet"}


def test_the_cards_header_matches_the_files(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export(made, tmp_path / "out", "jsonl")
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    files = {entry["path"] for config in header["configs"] for entry in config["data_files"]}
    assert files == {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").glob("*/*")}
    counts = {split["name"]: split["num_examples"] for info in header["dataset_info"] for split in info["splits"]}
    assert counts == {"train": 5, "as_trained": 2, "as_trained_2": 1}
    assert header["pretty_name"] == "small" and "| seed | 3 |" in card
    load(tmp_path / "out")
    assert "Ignoring" not in caplog.text


def test_rows_of_one_split_alone_keep_their_types(tmp_path: Path) -> None:
    write_folder(tmp_path / "questions", Question, QUESTIONS[:1])  # an empty list, of which JSON cannot tell the type
    export(tmp_path / "questions", tmp_path / "out", "jsonl")
    found = datasets.load_dataset(str(tmp_path / "out"), "questions", split="as_trained", cache_dir=tmp_path / "cache")
    assert found.features["requires"] == datasets.List(datasets.Value("string"))
    assert found.features["answer"] == datasets.Value("int64")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=30), min_size=1, max_size=9))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    documents = [Document(str(number), text, "w") for number, text in enumerate(texts)]
    write_folder(folder / "documents", Document, documents)
    for kind in ("parquet", "jsonl"):
        export(folder, folder / kind, kind)
        assert load(folder / kind)["train"] == as_rows(documents)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_augmentations_are_exported_from_their_stage(tmp_path: Path, kind: str) -> None:
    """What was not measured is null in both formats: JSON has no NaN."""
    write_folder(tmp_path / "wrote" / "augmentations", Augmentation, [AUGMENTATION])
    export(tmp_path / "wrote", tmp_path / "out", kind)
    (row,) = load(tmp_path / "out")["train"]
    expected = as_rows([AUGMENTATION])[0]
    unmeasured = {name for name, value in expected.items() if isinstance(value, float) and math.isnan(value)}
    assert unmeasured
    assert row == expected | dict.fromkeys(unmeasured)


def test_exported_questions_are_a_suite(made: Path, tmp_path: Path) -> None:
    export(made, tmp_path / "out", "jsonl")
    assert read_suite_file(tmp_path / "out" / "questions" / "as_trained.jsonl") == QUESTIONS[::2]


def test_a_card_is_written_beside_an_earlier_export(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(made, out, "jsonl")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    (out / "README.md").unlink()
    export(made, out, "card")
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == before
    assert load(out) == {"train": as_rows(DOCUMENTS)}


def test_an_export_can_be_done_again(made: Path, tmp_path: Path) -> None:
    export(made, tmp_path / "out", "parquet")
    (made / "documents" / "part-00001.arrow").unlink()
    write_folder(made / "documents", Document, DOCUMENTS[:1])
    export(made, tmp_path / "out", "parquet")
    assert load(tmp_path / "out") == {"train": as_rows(DOCUMENTS[:1])}


def test_somebody_elses_readme_is_left_alone(capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    words = ("data", "export", str(made), "--to", "parquet", "--out", str(tmp_path / "out"))
    assert "README.md" in refuse(capsys, *words)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]


def test_an_export_of_nothing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("data", "export", str(tmp_path), "--to", "parquet", "--out", str(tmp_path / "out"))
    assert "no documents, questions or augmentations" in refuse(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_folder_is_not_exported(made: Path, tmp_path: Path) -> None:
    (made / "questions" / "manifest.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        export(made, tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


def test_lines_are_valid_json(made: Path, tmp_path: Path) -> None:
    export(made, tmp_path / "out", "jsonl")
    lines = (tmp_path / "out" / "documents" / "train.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == as_rows(DOCUMENTS)
