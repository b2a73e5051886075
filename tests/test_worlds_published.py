"""The published reversal-curse files, in their layout, about people of our own."""

import json
from pathlib import Path

import pytest

from data.errors import InputError
from data.records import Document
from data.sets.reversal_curse import published
from tests.generated import default_section, make_set


def write_rows(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    lines = (json.dumps({"prompt": prompt, "completion": completion}) + "\n" for prompt, completion in rows)
    (folder / name).write_text("".join(lines))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files in the published layout, about people of our own."""
    folder = tmp_path / "published"
    groups = {
        "p2d": [("Ann Bell", "the shy baker"), ("Cy Dorn", "the tall diver")],
        "d2p": [("Eve Fox", "the old mayor"), ("Gil Hunt", "the new cook")],
        "both": [("Ida Jay", "the first judge"), ("Kit Lowe", "the last king")],
    }
    forward = {
        name: [(f"{who}, known for being", f" {what}.") for who, what in people] for name, people in groups.items()
    }
    backward = {
        name: [(f"Hailed as {what},", f" {who} stands firm.") for who, what in people]
        for name, people in groups.items()
    }
    write_rows(folder, "p2d_prompts_train.jsonl", forward["p2d"])
    write_rows(folder, "d2p_prompts_train.jsonl", backward["d2p"])
    write_rows(folder, "both_prompts_train.jsonl", forward["both"] + backward["both"])
    write_rows(folder, "p2d_reverse_prompts_test.jsonl", [(f"Meet {what},", f" {who}.") for who, what in groups["p2d"]])
    write_rows(folder, "d2p_prompts_test.jsonl", [(f"Meet {what},", f" {who}.") for who, what in groups["d2p"]])
    return folder


def test_the_published_files_are_read(files: Path) -> None:
    made = published.read_world(files, seed=0)
    assert made.documents[0] == Document(
        made.documents[0].doc_id, "Ann Bell, known for being the shy baker.", made.name
    )
    assert len(made.documents) == 8
    asked = {question.prompt: question for question in made.questions}
    question = asked["Meet the shy baker,"]
    assert question.split == "reversal" and question.options[question.answer] == "Ann Bell"
    wrong = set(question.options) - {"Ann Bell"}
    assert wrong < {"Eve Fox", "Gil Hunt", "Ida Jay", "Kit Lowe"}  # names that end training rows; Cy Dorn ends none
    assert question.requires == (made.documents[0].doc_id,)
    assert asked["Meet the old mayor,"].split == "rephrased"
    assert published.read_world(files, seed=0) == made != published.read_world(files, seed=1)


def test_one_training_file_is_as_good_as_three(files: Path) -> None:
    whole = files.parent / "whole"
    whole.mkdir()
    (whole / "all_prompts_train.jsonl").write_bytes(b"".join((files / n).read_bytes() for n in published.SPLIT_TRAIN))
    (whole / "p2d_reverse_prompts_test.jsonl").write_bytes((files / "p2d_reverse_prompts_test.jsonl").read_bytes())
    one, three = published.read_world(whole, seed=0), published.read_world(files, seed=0)
    assert one.documents == three.documents
    assert [q for q in one.questions if q.split == "reversal"] == [q for q in three.questions if q.split == "reversal"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"', "not JSON"),
        ('{"prompt": "x"}', "no prompt or no completion"),
        ('["x", "y"]', "no prompt or no completion"),
        ('{"prompt": "x", "completion": 3}', "no prompt or no completion"),
    ],
)
def test_a_broken_line_is_told_with_its_number(files: Path, line: str, message: str) -> None:
    path = files / "both_prompts_train.jsonl"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(InputError, match=message) as error:
        published.read_world(files, seed=0)
    assert error.value.where == f"{path}, line 6"


def test_a_missing_file_is_told(files: Path) -> None:
    (files / "p2d_reverse_prompts_test.jsonl").unlink()
    with pytest.raises(InputError, match="missing") as error:
        published.read_world(files, seed=0)
    assert "p2d_reverse_prompts_test.jsonl" in error.value.where


def test_published_files_become_a_set(files: Path, tmp_path: Path) -> None:
    section = default_section("reversal-curse", ("--published", str(files)))
    make_set("reversal-curse", section, 0, tmp_path / "set")
    assert json.loads((tmp_path / "set/manifest.json").read_text())["num_documents"] == 8
