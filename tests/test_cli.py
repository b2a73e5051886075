"""The command line: quick help, and one message with exit code 2 for each kind of wrong input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.data_section import SETS
from pipeline.flags import leaves
from pipeline.sections import Augment, Cluster, Engine, EvaluateStudy, Train
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


HELP = [
    ["--help"],
    ["run", "--help"],
    ["data", "make", "semantic", "--help"],
    ["train", "--help"],
    ["serve", "up", "--help"],
]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
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


def test_help_of_run_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capsys.readouterr().out
    sections = {"engine": Engine, "augment": Augment, "train": Train, "evaluate": EvaluateStudy, "cluster": Cluster}
    for name, model in sections.items():
        for leaf in leaves(model, (name,)):
            assert f"--{'.'.join(leaf.path).replace('_', '-')}" in shown
            assert leaf.field.description, f"{leaf.path} has no help"
    for name, model in SETS.items():
        for key in model.model_fields:
            assert f"--data.{name}.{key.replace('_', '-')} " in shown


@pytest.mark.parametrize("name", SETS)
def test_help_of_a_set_lists_its_keys(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit):
        main(["data", "make", name, "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{key.replace('_', '-')} " in shown for key in SETS[name].model_fields)


def test_unknown_command_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "demo" in refuse(capsys, "demoo")


@pytest.mark.parametrize("command", ["augment", "train", "evaluate", "serve up"])
def test_unknown_flag_is_refused_by_its_command_with_the_nearest(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    needed = {"augment": "--documents d --model m --out o", "train": "--documents d --model m --out o"}
    needed |= {"evaluate": "--suite s --out o", "serve up": "--model m"}
    flag = "--zero" if command == "train" else "--tensor-paralel"
    message = refuse(capsys, *command.split(), *needed[command].split(), flag, "2")
    assert f"entail {command}" in message and flag in message
    assert command == "train" or "--tensor-parallel" in message


def test_unknown_recipe_key_names_the_nearest(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + "[train]\nstps = 3\n")
    message = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"))
    assert "train.stps" in message and "steps" in message.splitlines()[-1] and str(recipe) in message
    assert not (tmp_path / "out").exists()


def test_unknown_override_names_the_nearest(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    message = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"), "--train.learning_rat", "0.1")
    assert "--train.learning-rate" in message and str(recipe) not in message
    assert not (tmp_path / "out").exists()


def test_override_without_value_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"), "--train.steps")
    assert not (tmp_path / "out").exists()


def test_override_through_a_value_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    message = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"), "--study.name", "x")
    assert "--study" in message


@pytest.mark.parametrize("value", ["-1", "many"])
def test_override_out_of_range_is_refused(capsys: pytest.CaptureFixture[str], recipe: Path, value: str) -> None:
    message = refuse(capsys, "run", str(recipe), "--train.batch-tokens", value)
    assert "--train.batch-tokens" in message and value in message and str(recipe) not in message


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
    assert str(out) in message
    assert sorted(out.rglob("*")) == before


def test_set_of_impossible_size_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "set"
    message = refuse(capsys, "data", "make", "reversals", "--out", str(out), "--fact", "9")
    assert "--facts" in message
    refuse(capsys, "data", "make", "reversals", "--out", str(out), "--facts", "0")
    assert not out.exists()


def test_report_of_nothing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path) in refuse(capsys, "report", str(tmp_path))
