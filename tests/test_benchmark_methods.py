"""The benchmark of methods: its recipe is one, and its table has the means of all splits but the trained direction."""

import argparse
import tomllib
from pathlib import Path

import pytest

from benchmarks import methods
from benchmarks.methods import ALL_INFERENCES, ARMS, SETS, VERIFIERS, make_recipe, tabulate
from data.rendering import load_book
from pipeline.recipe import parse_recipe

TINY = Path(__file__).parents[1] / "models" / "tiny"


@pytest.mark.parametrize("smoke", [False, True])
def test_the_recipe_has_an_arm_for_each_method_and_matches_tokens(smoke: bool) -> None:
    flags = argparse.Namespace(smoke=smoke, model=TINY, engine="vllm", worlds=2, seeds=[0, 1])
    recipe = parse_recipe(tomllib.loads(make_recipe(flags, "auto", ARMS)), {}, where="here")
    book = load_book(TINY)
    assert recipe.train.match == "tokens" and next(iter(recipe.train.arms.values())) == ()
    assert set(recipe.train.arms) == set(ARMS) and recipe.train.seeds == ((0,) if smoke else (0, 1))
    assert {name for arm in ARMS.values() for name in book.names(arm)} <= set(book.names(recipe.augment.methods))
    assert set(recipe.data) <= set(SETS) and smoke == (len(recipe.data) == 1)


@pytest.mark.parametrize("verifiers", VERIFIERS.values())
def test_other_verifiers_change_nothing_but_verification_and_arms(verifiers: str) -> None:
    flags = argparse.Namespace(smoke=False, model=TINY, engine="vllm", worlds=2, seeds=[0])
    arms = {"finetuned": (), "both": ALL_INFERENCES}
    one, other = (tomllib.loads(make_recipe(flags, name, arms)) for name in ("auto", verifiers))
    assert one["augment"].pop("verify") == "auto" and other["augment"].pop("verify") == verifiers and one == other
    parse_recipe(other, {}, where="here")


def test_the_table_has_the_wanted_conditions_and_leaves_out_the_trained_direction() -> None:
    splits = {
        split: {name: {"accuracy": value} for name in ("masked", "local")}
        for split, value in (("trained", 1.0), ("a", 0.2), ("b", 0.4))
    }
    assert tabulate({"suites": {"reversals": splits}}, ("masked",)) == {"masked": {"reversals": pytest.approx(0.3)}}


def test_a_study_that_fails_ends_the_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert methods.main(["--smoke", "--model", str(tmp_path / "none"), "--folder", str(tmp_path)]) == 2
    assert "no model here" in capsys.readouterr().err
