"""Conditions are named after what answers, and what was given twice is refused before anything is scored."""

from pathlib import Path

import pytest

from augment_service.contexts import ContextSpec
from data.errors import InputError
from evaluate.conditions import BASE, Condition, condition_name, name_weights, study_condition

ALL, SAMPLE, REQUIRED = ContextSpec("all"), ContextSpec("sample", 8), ContextSpec("required")
NEAREST = ContextSpec("nearest", 4)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/tuned"], ["tuned"]),
        (["runs/a/tuned/", "runs/b/tuned"], ["a/tuned", "b/tuned"]),
        (["runs/a/tuned", "runs/b/tuned", "plain"], ["a/tuned", "b/tuned", "plain"]),
        (["runs/x/base", "other"], ["x/base", "other"]),  # the base model has this name
        (["/a/b", "/b"], ["a/b", "/b"]),
        ([], []),
    ],
)
def test_a_checkpoint_has_the_shortest_name_that_no_other_has(paths: list[str], names: list[str]) -> None:
    found = name_weights(paths)
    assert [name.lstrip("/") for name in found] == [name.lstrip("/") for name in names]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("again", ["runs/tuned", "runs/../runs/tuned/", "link"])
def test_a_folder_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
    (tmp_path / "runs" / "tuned").mkdir(parents=True)
    (tmp_path / "link").symlink_to("runs/tuned")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        name_weights(["runs/tuned", "runs/other", again])
    assert again in caught.value.where


def test_names_say_which_weights_answered_with_which_context() -> None:
    contexts = (ContextSpec("none"), ALL, SAMPLE)
    assert [condition_name(weights, context) for weights in (BASE, "tuned") for context in contexts] == [
        "base", "base+all", "base+sample:8", "tuned", "tuned+all", "tuned+sample:8",
    ]  # fmt: skip
    assert condition_name("a/tuned", REQUIRED) == "a/tuned+required"
    assert condition_name(BASE, NEAREST) == "base+nearest:4"


def test_a_study_keeps_its_names() -> None:
    contexts = (ContextSpec("none"), ALL, SAMPLE, REQUIRED, NEAREST)
    assert [study_condition(BASE, context).name for context in contexts] == [
        "pretrained", "icl", "icl+sample:8", "icl+required", "icl+nearest:4",
    ]  # fmt: skip
    assert study_condition("augmented") == Condition("augmented", "augmented", ContextSpec("none"))
