"""`entail learn`, by the embedded model: what it writes, what it chooses, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from data.errors import InputError
from data.sets.registry import make_set
from pipeline.cli import main
from pipeline.data_section import SETS
from pipeline.learn import ALONE, SUITE, WITH_INFERENCES, choose_arm
from pipeline.models import ROOT
from pipeline.recipe import load_recipe

TOWN = Path(__file__).with_name("sample_town")


def report_of(**splits: tuple[float, float]) -> dict[str, Any]:
    return {
        "suites": {
            SUITE: {
                name: {ALONE: {"accuracy": alone}, WITH_INFERENCES: {"accuracy": both}}
                for name, (alone, both) in splits.items()
            }
        }
    }


def test_the_development_questions_decide() -> None:
    assert choose_arm(report_of(test=(0.9, 0.1), dev=(0.2, 0.3))) == (WITH_INFERENCES, "dev", 0.3)
    assert choose_arm(report_of(test=(0.9, 0.1), known=(0.2, 0.3))) == (ALONE, "test", 0.9)
    assert choose_arm(report_of(dev=(0.5, 0.5)))[0] == ALONE
    arm, split, accuracy = choose_arm(report_of(first=(1.0, 0.8), second=(0.0, 0.6)))
    assert (arm, accuracy) == (WITH_INFERENCES, pytest.approx(0.7)) and "mean" in split


def test_a_checkpoint_between_steps_can_be_the_best() -> None:
    report = report_of(dev=(0.5, 0.5))
    cells = report["suites"][SUITE]["dev"]
    cells |= {
        f"{ALONE}@100": {"accuracy": 0.6},
        f"{ALONE}@50": {"accuracy": 0.6},
        f"{WITH_INFERENCES}@50": {"accuracy": 0.6},
    }
    assert choose_arm(report)[0] == f"{ALONE}@100"
    cells[WITH_INFERENCES]["accuracy"] = 0.7
    assert choose_arm(report)[0] == WITH_INFERENCES
    cells[ALONE]["accuracy"] = 0.7
    assert choose_arm(report)[0] == ALONE


def test_an_arm_may_lose_so_much_of_what_was_known() -> None:
    report = report_of(dev=(0.2, 0.9), known=(0.9, 0.7))
    report["suites"][SUITE]["known"]["pretrained"] = {"accuracy": 1.0, "n": 10}
    assert choose_arm(report, 0.3) == (WITH_INFERENCES, "dev", 0.9)
    assert choose_arm(report, 0.15) == (ALONE, "dev", 0.2)
    with pytest.raises(InputError, match="documents lost 10%, inferences lost 30%"):
        choose_arm(report, 0.05)
    with pytest.raises(InputError, match="knows"):
        choose_arm(report_of(dev=(0.2, 0.9)), 0.05)


def test_a_brought_suite_a_report_and_a_model_that_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made"
    section = SETS["reversals"](lexicon="tiny", worlds=1)
    make_set("reversals", "tiny", 1, section.sizes(), seed=0, folder=made)
    out = tmp_path / "out"
    words = ["learn", str(made), "--model", "models/tiny", "--suite", str(made), "--out", str(out), "--engines", "1"]
    assert main([*words, "--train.steps", "20"]) == 0
    assert "model     " in capsys.readouterr().out
    report = json.loads((out / "report" / "report.json").read_text())
    conditions = report["suites"][SUITE]["reversal"]
    assert {"pretrained", "icl+nearest:4", ALONE, WITH_INFERENCES} <= set(conditions)
    assert conditions["icl+nearest:4"]["accuracy"] > 0.8  # the documents are found and read
    assert AutoModelForCausalLM.from_pretrained(out / "model").num_parameters() > 400_000
    recipe = load_recipe(out / "recipe.toml")
    assert recipe.train.steps == 20 and recipe.train.arms[WITH_INFERENCES] == ("local", "global")
    # The same command has nothing left to do.
    assert main([*words, "--train.steps", "20"]) == 0
    assert "start engines" not in capsys.readouterr().out


def test_questions_are_written_and_it_can_end_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["learn", *map(str, sorted(TOWN.glob("*.md"))[:8]), "--model", str(ROOT / "models" / "tiny")]
    words += ["--out", str(tmp_path / "out"), "--engine", "fake"]
    assert main([*words, "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "facts" in shown and "to write" in shown and "to score" in shown and "starting" not in shown
    assert "prompts" in shown and "is the smallest that fits" in shown
    assert not (tmp_path / "out" / "questions" / "questions").exists()
    assert main([*words, "--until", "questions"]) == 0
    assert (tmp_path / "out" / "questions" / "questions.jsonl").read_text().count("\n") > 0
    assert not (tmp_path / "out" / "report").exists()


def test_other_methods_are_those_that_the_arm_learns(tmp_path: Path) -> None:
    words = ["learn", str(TOWN / "mill.md"), "--model", str(ROOT / "models" / "tiny"), "--engine", "fake", "--plan"]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out), "--augment.methods", "local/reverse,global"]) == 0
    recipe = load_recipe(out / "recipe.toml")
    assert recipe.augment.methods == recipe.train.arms[WITH_INFERENCES] == ("local/reverse", "global")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere", "--model", "models/tiny"], "nowhere"),
        ([str(TOWN), "--model", "models/none"], "models/none"),
        ([str(TOWN), "--model", "models/tiny", "--suite", "nowhere.jsonl"], "nowhere.jsonl"),
        (
            [str(TOWN), "--model", "m", "--engine", "endpoint", "--url", "http://127.0.0.1:9/v1"],
            "folder or a hub model",
        ),
    ],
)
def test_wrong_input_is_one_message(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["learn", *words, "--out", str(tmp_path / "out")]) == 2
    assert named in capsys.readouterr().err
