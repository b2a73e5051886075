"""Recipes and flags: two spellings of one field, checked once."""

import tomllib
from pathlib import Path

import pytest

from data.errors import InputError
from pipeline.cli import build_parser
from pipeline.recipe import RECIPES, Recipe, load_recipe, parse_recipe, to_toml

DEMO = RECIPES / "demo.toml"


def load(*words: str, recipe: Path = DEMO) -> Recipe:
    """The recipe as `entail run` reads it."""
    flags = build_parser().parse_args(["run", str(recipe), *words])
    return load_recipe(flags.recipe, flags.overrides)


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (("--train.learning-rate", "3e-4"), "train.learning_rate", 3e-4),
        (("--train.learning_rate=3e-4",), "train.learning_rate", 3e-4),
        (("--learning-rate", "3e-4"), "train.learning_rate", 3e-4),
        (("--learning_rate", "3e-4"), "train.learning_rate", 3e-4),
        (("--engine", "fake"), "engine.kind", "fake"),
        (("--engine.kind", "fake"), "engine.kind", "fake"),
        (("--augment.methods", "local,global/deduce"), "augment.methods", ("local", "global/deduce")),
        (("--augment.methods", '["local"]'), "augment.methods", ("local",)),
        (("--methods", "local"), "augment.methods", ("local",)),
        (("--train.lora.rank", "4"), "train.lora.rank", 4),
        (("--lora-rank", "4"), "train.lora.rank", 4),
        (("--train.seeds", "0,1,2"), "train.seeds", (0, 1, 2)),
        (("--train.seeds", "3"), "train.seeds", (3,)),
        (("--activation-checkpointing",), "train.activation_checkpointing", True),
        (("--train.memory-check", "false"), "train.memory_check", False),
        (("--mix", "documents=0.5,local=0.5"), "train.mix", {"documents": 0.5, "local": 0.5}),
        (("--train.mix.documents", "0.5"), "train.mix", {"documents": 0.5}),
        (("--stage", "auto"), "train.stage", "auto"),
        (("--seed", "7"), "seed", 7),
        (("--evaluate.icl", "all,sample:8,required"), "evaluate.icl", ("all", "sample:8", "required")),
        (("--url", "http://127.0.0.1:1/v1"), "engine.kind", "endpoint"),
    ],
)
def test_a_flag_sets_its_key(words: tuple[str, ...], path: str, value: object) -> None:
    found: object = load(*words)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_arms_and_corpora_have_names_of_their_own() -> None:
    recipe = load(
        "--train.arms.mine_too", "local", "--data.my_notes.documents", "d", "--data.my_notes.questions=q.jsonl"
    )
    assert recipe.train.arms["mine_too"] == ("local",)
    arms = {"finetuned": (), "mine": ("local/reverse",)}
    assert load("--train.arms", "finetuned=,mine=local/reverse").train.arms == arms
    assert load("--train.arms.finetuned=", "--train.arms.mine", "local/reverse").train.arms.items() >= arms.items()
    assert recipe.data["my_notes"].model_dump() == {"documents": "d", "questions": "q.jsonl"}


def test_a_budget_on_the_command_line_replaces_that_of_the_recipe() -> None:
    train = load("--train.tokens", "900").train
    assert (train.steps, train.tokens) == (0, 900)
    with pytest.raises(InputError, match="one budget") as raised:
        load("--train.tokens", "900", "--train.steps", "3")
    assert raised.value.where.startswith("--train.")


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("--train.steps", "many"), "--train.steps"),
        (("--samples", "0"), "--samples"),
        (("--train.arms.icl", "local"), "--train.arms.icl"),
        (("--train.arms", "a/b=local"), "--train.arms"),
        (("--window", "100", "--engine", "fake", "--dtype", "float16"), "--dtype"),
        (("--connections", "3"), "--connections"),
        (("--engine", "endpoint"), "--engine"),
        (("--service", "x", "--tensor-parallel", "2"), "--tensor-parallel"),
        (("--data.mine.documents", "d"), "--data.mine.documents"),
        (("--data.reversals.nonsense-names", "true"), "--data.reversals.nonsense-names"),
        (("--data.reversal-curse.published", "x"), "--data.reversal-curse.published"),
        (("--train.seeds", "1,1"), "--train.seeds"),
        (("--replay", "none", "--replay-share", "0.3"), "--replay"),
        (("--replay-share", "1"), "--replay-share"),
        (("--service", "x", "--deadline-seconds", "9"), "--deadline-seconds"),
    ],
)
def test_an_error_in_an_override_names_the_flag(words: tuple[str, ...], where: str) -> None:
    with pytest.raises(InputError) as raised:
        load(*words)
    assert where in raised.value.where


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"study": "s"},
        {"study": "s", "data": {}},
        {"study": "s", "data": {"mine": {"documents": "d"}}},
        {"study": "s", "data": {"a/b": {"documents": "d", "questions": "q"}}},
        {"study": "s", "data": {"reversals": 3}},
        {"study": "../s", "data": {"reversals": {}}},
        {"study": "s", "data": {"reversals": {"facts": 3}}},
        {"study": "s", "data": {"reversals": {}}, "train": {"mix": {"local": 1.0}}},
        {"study": "s", "data": {"reversals": {}}, "train": {"mix": {"documents": 0.0}}},
        {"study": "s", "data": {"reversals": {}}, "train": {"mix": {"documents": 1.0, "replay": 0.1}}},
        {"study": "s", "data": {"reversals": {}}, "train": {"arms": {"base": []}}},
    ],
)
def test_a_wrong_recipe_is_an_input_error_that_names_the_file(content: dict) -> None:
    with pytest.raises(InputError) as raised:
        parse_recipe(content, {}, where="r.toml")
    assert raised.value.where == "r.toml"


def test_the_resolved_recipe_reads_back_as_the_same(tmp_path: Path) -> None:
    recipe = load("--train.arms.mine", "local", "--data.my-notes.documents", 'a "b"', "--data.my-notes.questions", "q")
    path = tmp_path / "again.toml"
    path.write_text(to_toml(recipe))
    assert tomllib.loads(path.read_text())["train"]["arms"]["mine"] == ["local"]
    assert load_recipe(path) == recipe


def test_the_bundled_recipes_are_valid() -> None:
    for path in RECIPES.glob("*.toml"):
        load_recipe(path)
