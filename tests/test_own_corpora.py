"""Your own documents and questions in a study, several seeds, sampled contexts, and what must be refused first."""

import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from cluster.placement import Placement
from data.errors import InputError
from pipeline.data_section import SETS
from pipeline.models import find_model
from pipeline.recipe import RECIPES, Recipe, load_recipe
from pipeline.sections import Engine
from pipeline.stages import resources
from pipeline.stages.data import data_key
from pipeline.study import make_data, open_study, run_study

TEXTS = """jeex are more curious than hoosk.
vaff are more famous than gled.
"""
QUESTIONS = (("hoosk are less curious than", "jeex", "reversal"), ("vaff are more famous than", "gled", "trained"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of text in the embedded model's words, and questions about it."""
    texts = tmp_path / "my texts"
    texts.mkdir()
    for number, line in enumerate(TEXTS.splitlines()):
        (texts / f"{number}.txt").write_text(line.removesuffix(".") + "\n")
    rows = [
        {"prompt": prompt, "options": ["jeex", "hoosk", "gled", "vaff"], "answer": answer, "split": split}
        for prompt, answer, split in QUESTIONS
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(folder: Path, **changes: tuple[str, str]) -> Recipe:
    overrides = {
        ("data", "mine", "documents"): ("--data.mine.documents", str(folder / "my texts")),
        ("data", "mine", "questions"): ("--data.mine.questions", str(folder / "mine.jsonl")),
        ("train", "steps"): ("--steps", "20"),
        ("train", "ranks_per_run"): ("--ranks-per-run", "1"),
    }
    overrides |= {tuple(path.split(".")): found for path, found in changes.items()}
    return load_recipe(RECIPES / "own.toml", overrides)


def test_a_folder_of_text_takes_part_in_a_study(folder: Path) -> None:
    wanted = {
        "train.seeds": ("--seeds", "0,1"),
        "train.split_sentences": ("--split-sentences", "independent"),
        "evaluate.icl": ("--icl", "all,sample:2,required"),
        "evaluate.repeats": ("--repeats", "2"),
    }
    report = run_study(recipe(folder, **wanted), folder / "out", Console(quiet=True), command="entail run own.toml")
    cells = report["suites"]["mine"]["reversal"]
    assert {"pretrained", "icl", "icl+sample:2", "finetuned", "augmented"} <= set(cells)
    assert cells["icl"]["accuracy"] == 1.0
    by_corpus = report["by_corpus"]["mine"]["reversal"]["augmented"]
    assert [set(runs) for runs in by_corpus.values()] == [{"seed 0", "seed 1"}]
    assert (folder / "my texts").exists() and len(list((folder / "out" / "train").glob("*/checkpoint.json"))) == 4
    assert load_recipe(folder / "out" / "report" / "recipe.toml").data["mine"].documents == str(folder / "my texts")


@pytest.mark.parametrize(
    ("path", "flag", "value"),
    [
        ("train.arms.extra", "--train.arms.extra", "local/none"),
        ("augment.methods", "--methods", "local,nothing"),
        ("augment.methods", "--methods", "local"),  # the arm "augmented" learns global, too
        ("evaluate.icl", "--icl", "everything"),
        ("augment.prompts", "--prompts", "nowhere.toml"),
        ("model", "--model", "models/none"),
        ("data.mine.documents", "--data.mine.documents", "nowhere"),
        ("data.mine.questions", "--data.mine.questions", "nowhere.jsonl"),
    ],
)
def test_unknown_names_are_refused_before_anything_starts(folder: Path, path: str, flag: str, value: str) -> None:
    with pytest.raises(InputError):
        open_study(recipe(folder, **{path: (flag, value)}), folder / "out", Console(quiet=True))
    assert not (folder / "out").exists()


def test_questions_about_a_corpus_without_documents_are_refused(folder: Path) -> None:
    suite = folder / "mine.jsonl"
    rows = [json.loads(line) | {"corpus": "other"} for line in suite.read_text().splitlines()]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="other"):
        run_study(recipe(folder), folder / "out", Console(quiet=True))


def test_what_cannot_fit_into_memory_is_refused_before_engines_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engines(*_: object) -> None:
        raise AssertionError("engines were started")

    monkeypatch.setattr(resources, "start_pool", no_engines)
    monkeypatch.setattr(resources.LazyCluster, "placement", Placement(2, 1, 0, 2, 1, 0))
    monkeypatch.setattr("train.plan.fit.rank_bytes", lambda *_: 2**20)
    with pytest.raises(InputError, match=r"GiB|MiB"):
        run_study(recipe(folder), folder / "out", Console(quiet=True))


def folders(folder: Path, **changes: tuple[str, str]) -> tuple[Path, Path]:
    """Where the data and the inferences of a study would be."""
    study = open_study(recipe(folder, **changes), folder / "out", Console(quiet=True))
    (suite,) = make_data(study)
    return study.data["mine"], study.augment_folder(suite)


def test_changed_documents_generator_or_template_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folders(folder)
    (folder / "my texts" / "0.txt").write_text("gled are more curious than hoosk\n")
    changed = folders(folder)
    assert changed[0] != first[0] and changed[1] != first[1]
    os.utime(folder / "my texts" / "0.txt", (1, 1))  # imported again, but nothing else is repeated
    assert folders(folder)[1] == changed[1]
    book = folder / "book.toml"
    book.write_text(Path("models/tiny/prompts.toml").read_text().replace("reverse : ", "turn : "))
    other = folders(folder, **{"augment.prompts": ("--prompts", str(book))})
    assert other[1] != changed[1]
    section = SETS["reversals"]()
    before = data_key("reversals", section, 0)
    monkeypatch.setattr("data.sets.registry.GENERATOR_VERSION", "another")
    assert data_key("reversals", section, 0) != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_changed_config_or_tokenizer_is_another_model(folder: Path, name: str) -> None:
    model = shutil.copytree("models/tiny", folder / "model")
    first = find_model(str(model), Engine()).fingerprint
    before = folders(folder, model=("--model", str(model)))
    (model / name).write_text((model / name).read_text() + " ")
    assert folders(folder, model=("--model", str(model)))[1] != before[1]
    assert find_model(str(model), Engine()).fingerprint != first
