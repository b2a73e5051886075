"""The command line: quick help, and one message with exit code 2 for each kind of wrong input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "datasets", "matplotlib", "pyarrow")
RECIPE = """
study = "small"
model = "{model}"
[data.reversals]
worlds = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A sound recipe, except that its model folder is missing."""
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(model=tmp_path / "absent"))
    return path


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must be refused; returns its one message."""
    assert main(words) == 2
    message = capsys.readouterr().err
    assert re.fullmatch(r"entail: .+\n  where: .+\n  hint:  .+\n", message), message
    return message


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["data", "make", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import json, sys\nfrom pipeline.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    *shown, loaded = done.stdout.splitlines()
    assert json.loads(loaded) == []
    assert shown[0].startswith("usage: entail")


def test_unknown_verb_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demoo"])
    assert end.value.code == 2
    assert "demo" in capsys.readouterr().err


def test_unknown_recipe_key_names_the_nearest(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + "[train]\nstps = 3\n")
    message = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"))
    assert 'unknown key "train.stps"' in message and 'did you mean "steps"?' in message and str(recipe) in message
    assert not (tmp_path / "out").exists()


def test_unknown_override_names_the_nearest(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    message = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"), "--train.learning_rat", "0.1")
    assert 'did you mean "learning_rate"?' in message
    assert not (tmp_path / "out").exists()


def test_override_without_value_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"), "--train.steps")
    assert not (tmp_path / "out").exists()


def test_override_through_a_value_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    message = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"), "--study.name", "x")
    assert "study" in message


@pytest.mark.parametrize("value", ["0", "many"])
def test_override_out_of_range_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path, value: str) -> None:
    message = refuse(capsys, "run", str(recipe), "--train.steps", value)
    assert "train.steps" in message and value in message


def test_missing_recipe_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nowhere.toml" in refuse(capsys, "run", str(tmp_path / "nowhere.toml"))


def test_broken_recipe_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    recipe.write_text("study = ")
    assert str(recipe) in refuse(capsys, "run", str(recipe))


def test_missing_model_folder_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    message = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"))
    assert str(tmp_path / "absent") in message and "pretrain" in message
    assert not (tmp_path / "out").exists()


def test_second_study_in_the_folder_is_refused(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(RECIPE.format(model="models/tiny"))
    out = tmp_path / "out"
    with Workspace(out).locked():
        before = sorted(out.rglob("*"))
        message = refuse(capsys, "run", str(recipe), "--out", str(out))
    assert "another study is running" in message and str(out) in message
    assert sorted(out.rglob("*")) == before


def test_set_of_impossible_size_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "set"
    message = refuse(capsys, "data", "make", "reversals", "--out", str(out), "--fact", "9")
    assert 'did you mean "facts"?' in message
    refuse(capsys, "data", "make", "reversals", "--out", str(out), "--facts", "0")
    assert not out.exists()


def test_report_of_nothing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path) in refuse(capsys, "report", str(tmp_path))
