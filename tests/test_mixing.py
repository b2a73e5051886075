"""What recipes and flags say of the texts of a run: shares, budgets, controls, and what contradicts itself."""

from pathlib import Path

import pytest

from data.errors import InputError
from pipeline.cli import build_parser
from pipeline.mixing import arm_sources, describe_courses, fields_of_flags, training_fields
from pipeline.recipe import RECIPES, load_recipe
from pipeline.train_section import TrainingTexts
from train.run.finetune_run import TextSource

DOCUMENTS, INFERENCES = TextSource("documents", "w0"), TextSource("augmentations", "w0", verdict_kept_only=True)
METHODS = ("global/deduce", "local/rephrase", "local/reverse")
DEMO = RECIPES / "demo.toml"


def settings(*overrides: str) -> TrainingTexts:
    return load_recipe(DEMO, overrides).train


def test_without_a_mix_all_texts_count_alike() -> None:
    sources = arm_sources(DOCUMENTS, INFERENCES, METHODS, settings())
    assert [(s.folder, s.methods, s.weight) for s in sources] == [
        ("documents", (), None),
        ("augmentations", METHODS, None),
    ]
    assert arm_sources(DOCUMENTS, INFERENCES, (), settings()) == (DOCUMENTS,)


def test_a_mix_weighs_families_methods_and_replay(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    mix = 'train.texts.mix = {documents = 0.4, local = 0.2, "local/reverse" = 0.1, global = 0.2, replay = 0.1}'
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(f'study = "s"\n{mix}\ntrain.replay = "{tmp_path}"\n[data.reversals]\nworlds = 1\n')
    mixed = load_recipe(recipe).train
    sources = arm_sources(DOCUMENTS, INFERENCES, METHODS, mixed)
    assert [(Path(s.folder).name, s.methods, s.weight) for s in sources] == [
        ("documents", (), 0.4),
        ("augmentations", ("global/deduce",), 0.2),
        ("augmentations", ("local/rephrase",), 0.2),
        ("augmentations", ("local/reverse",), 0.1),
        ("documents", (), 0.1),
    ]
    assert [s.corpus for s in sources] == ["w0"] * 4 + [""]
    with pytest.raises(InputError, match='the mix has no weight for "pairs/compare"'):
        arm_sources(DOCUMENTS, INFERENCES, ("pairs/compare",), mixed)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), (240, 0, 0, "")),
        (("--train.match", "tokens"), (240, 0, 0, "tokens")),
        (("--train.steps", "0", "--train.texts.tokens", "900"), (0, 900, 0, "")),
        (("--train.steps", "0", "--train.texts.tokens", "900", "--train.match", "steps"), (0, 900, 0, "steps")),
        (("--train.steps", "0", "--train.epochs", "2.5"), (0, 0, 2.5, "steps")),
    ],
)
def test_the_budget_is_the_first_arms_where_arms_are_matched_in_something_else(
    overrides: tuple[str, ...], expected: tuple[float, ...]
) -> None:
    fields = training_fields(settings(*overrides), (DOCUMENTS,))
    assert (fields["num_steps"], fields["num_tokens"], fields["num_epochs"], fields["match"]) == expected
    assert fields["matched_to"] == ((DOCUMENTS,) if expected[3] else ())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("--train.texts.tokens", "900"), "train.steps = 240, train.texts.tokens = 900"),
        (("--train.steps", "0"), "train.steps = 0, train.texts.tokens = 0, train.epochs = 0.0"),
        (("--train.texts.mix.documents", "0"), "sum to zero"),
        (("--train.texts.mix.documents", "-1"), "greater than or equal to 0"),
        (("--train.texts.mix.local", "1"), 'needs a weight for "documents"'),
        (("--train.replay", "runs/text"), "a replay folder needs a weight"),
        (("--train.texts.mix.documents", "1", "--train.texts.mix.replay", "1"), "that weight a folder"),
        (("--train.layout", "dense"), "'auto', 'packed' or 'padded'"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(DEMO, overrides)


def fields_of(*words: str) -> dict:
    flags = build_parser().parse_args(["train", "--model", "m", "--documents", "docs", "--out", "o", *words])
    return fields_of_flags(flags)


def test_flags_of_train_name_the_same_things() -> None:
    assert fields_of()["num_steps"] == 240
    fields = fields_of("--epochs", "3", "--replay", "text", "--mix", "documents=3, replay=1", "--layout", "packed")
    assert (fields["num_steps"], fields["num_epochs"], fields["layout"]) == (0, 3.0, "packed")
    assert [(s.folder, s.weight) for s in fields["sources"]] == [("docs", 3.0), ("text", 1.0)]
    taught = fields_of("--teacher", "said", "--prompt-column", "question", "--text-column", "answer", "--tokens", "99")
    assert (taught["objective"], taught["num_tokens"]) == ("distillation", 99)
    assert [(s.text_column, s.prompt_column) for s in taught["sources"]] == [("answer", "question"), ("text", "")]
    for words in ("documents=1", "documents=1,replay=x", "documents=1,replay=1,more=1"):
        with pytest.raises(InputError, match="does not give each of documents, replay a weight"):
            fields_of("--replay", "text", "--mix", words)


def test_courses_are_told_in_a_phrase() -> None:
    packed = {"name": "packed", "rows": 1, "why": "0.60 of the arithmetic of padded ones"}
    first = {"num_steps": 240, "num_tokens": 59_000, "layout": packed}
    told = describe_courses([first, first | {"num_tokens": 71_000}])
    assert told == ("240 steps, 59,000 to 71,000 tokens, packed texts (0.60 of the arithmetic of padded ones)")
    padded = first | {"layout": {"name": "padded", "rows": 1, "why": "as asked for"}}
    assert describe_courses([first, padded]) == "240 steps, 59,000 tokens, packed texts, padded texts"
