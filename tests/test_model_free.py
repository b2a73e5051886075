"""Methods without a model: their rows, their bounds, what they refuse, and that no engine starts for them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_cli import refuse
from tiny_models import make_model

from augment_service.augment import AUGMENTATIONS, is_augmented, plan_augmentation, seal_augmentations
from augment_service.contexts import ALL
from augment_service.engines.protocol import EngineSpec
from augment_service.methods import AugmentPlan
from augment_service.model_free import MaskedTask, chat_methods, is_model_free
from augment_service.reversal import reverse_words
from augment_service.tokens import token_counter
from augment_service.worker import EngineWorker
from data.audit import read_oracles
from data.closure import Closure
from data.errors import InputError
from data.records import Augmentation, Document, Generation, Prompt, Question
from data.rendering import ENGLISH_CHAT, MODEL_FREE, load_book
from data.sets.oracle import STATED, TRUE
from data.sets.registry import make_set, make_worlds
from data.store import read_folder, write_folder
from pipeline.cli import main
from pipeline.data_section import SETS
from pipeline.stages.resources import LazyEngines

TINY = Path("models/tiny")
BOOK = load_book(TINY)
PLAN = AugmentPlan(MODEL_FREE, samples=2, temperature=0.7, seed=0)
SIZES: dict[tuple[str, str], dict[str, Any]] = {
    ("reversals", "tiny"): {"facts": 8},
    ("reversals", "open"): {"facts": 16, "documents_per_fact": 2},
    ("syllogisms", "tiny"): {"syllogisms": 8},
    ("syllogisms", "open"): {"syllogisms": 8},
    ("reversal-curse", "tiny"): {"people_per_group": 4},
    ("reversal-curse", "open"): {"people_per_group": 4, "documents_per_fact": 2},
    ("semantic", "tiny"): {"categories": 16},
    ("semantic", "open"): {"categories": 16, "documents": 320, "questions_per_split": 8},
    ("process", "tiny"): {"functions": 16, "questions_per_split": 8},
    ("process", "open"): {"functions": 6, "documents": 200, "questions_per_split": 20},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    make_set("semantic", "tiny", 2, {"categories": 16, "documents_per_fact": 1}, 0, folder)
    return folder


def run(out: Path, documents: Path, plan: AugmentPlan = PLAN, book: Any = BOOK, **options: Any) -> list[Augmentation]:
    jobs = plan_augmentation(documents, out, book, plan, model="m", context=ALL, **options)
    worker = EngineWorker(EngineSpec(kind="fake", model="none"))
    for unit in [unit for job in jobs for unit in job.units()]:
        worker.run_unit(*unit.args)  # type: ignore[arg-type]
    seal_augmentations(documents, out, jobs)
    assert is_augmented(out, jobs)
    return list(read_folder(out / AUGMENTATIONS, Augmentation))


def rows_of(rows: list[Augmentation], method: str) -> list[Augmentation]:
    return [row for row in rows if row.method == method and row.verdict == "kept"]


# ---- rows


def test_every_method_makes_rows_that_repeat_exactly_and_name_no_model(made: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "a", made / "documents")
    assert repr(first) == repr(run(tmp_path / "b", made / "documents"))
    assert {row.method for row in first} == set(MODEL_FREE)
    assert len({row.augmentation_id for row in first}) == len({row.prompt_id for row in first}) == len(first)
    assert {row.model for row in first} == {""} and {row.finish_reason for row in first} == {"stop"}
    assert len({row.template for row in first}) == len(MODEL_FREE)


def test_reversals_are_of_whole_documents(tmp_path: Path) -> None:
    documents = [Document("a", "Ada Pell is tall. She swims.", "w"), Document("b", " ", "w")]
    write_folder(tmp_path / "documents", Document, documents)
    rows = run(tmp_path / "out", tmp_path / "documents", replace(PLAN, methods=("reverse",)))
    assert {row.method: row.text for row in rows} == {
        "reverse/words": ". swims She . tall is Pell Ada",
        "reverse/entities": ". swims She . tall is Ada Pell",
    }
    assert rows[0].text == reverse_words(documents[0].text) and rows[0].sources == ("a",)


def test_masked_rows_have_the_passage_after_its_copy_with_gaps(made: Path, tmp_path: Path) -> None:
    rows = rows_of(run(tmp_path / "out", made / "documents", replace(PLAN, methods=("masked",), samples=8)), "masked")
    texts = {one.doc_id: one.text for one in read_folder(made / "documents", Document)}
    shares = []
    for row in rows:
        assert row.text == texts[row.sources[0]] and row.form == "text" and row.prompt.endswith(" => ")
        words, shown = row.text.split(), row.prompt.removesuffix(" => ").split()
        assert all(gap in (word, "---") for word, gap in zip(words, shown, strict=True))
        shares.append(shown.count("---") / len(words))
    assert len({row.prompt for row in rows}) > 4 * len(texts)
    assert min(shares) < 0.3 and max(shares) > 0.8 and 0.4 < sum(shares) / len(shares) < 0.6
    other = run(tmp_path / "other", made / "documents", replace(PLAN, methods=("masked",), samples=8, seed=1))
    assert {row.prompt for row in other} != {row.prompt for row in rows}


def test_in_a_book_for_chats_masked_rows_are_turns(tmp_path: Path) -> None:
    book = load_book(None, ENGLISH_CHAT)
    write_folder(tmp_path / "documents", Document, [Document("a", "Say {document} to Ada.", "w")])
    (row, *_) = run(tmp_path / "out", tmp_path / "documents", replace(PLAN, methods=("masked",)), book)
    assert row.form == "chat" and row.text == "Say {document} to Ada."
    assert row.prompt.startswith("Words of a text were replaced by ____.") and row.prompt.count("____") > 1
    assert chat_methods(book, ["masked", "local"]) == ["masked"] and chat_methods(BOOK, ["masked"]) == []


@pytest.mark.parametrize("long_documents", ["cut", "skip"])
def test_a_passage_and_its_copy_fit_the_window(tmp_path: Path, long_documents: Any) -> None:
    model = str(make_model(tmp_path / "m", 0, tied=True))
    text = " ".join(f"w{at}" for at in range(120))
    write_folder(tmp_path / "documents", Document, [Document("a", text, "w"), Document("b", "w1 w2", "w")])
    plan = replace(PLAN, methods=("masked",), long_documents=long_documents)
    book = BOOK.model_copy(update={"masked": BOOK.masked.model_copy(update={"mark": "w7"})})
    rows = run(tmp_path / "out", tmp_path / "documents", plan, book, window=80, tokenizer=model)
    sizes = token_counter(model)([row.prompt + row.text for row in rows])
    assert max(sizes) <= 80
    parts = sorted({row.span: row.text for row in rows if row.sources == ("a",)}.items())
    assert " ".join(part for _, part in parts) == (text if long_documents == "cut" else "")
    assert {row.span for row in rows if row.sources == ("b",)} == {()}
    with pytest.raises(InputError, match="leaves"):
        plan_augmentation(
            tmp_path / "documents", tmp_path, book, plan, model="m", context=ALL, window=24, tokenizer=model
        )


def test_passages_with_other_gaps_are_not_repeated_and_an_answer_to_another_question_is_none(tmp_path: Path) -> None:
    write_folder(tmp_path / "documents", Document, [Document("a", "w1 w2 w3 w4 w5 w6 w7 w8", "w")])
    rows = run(tmp_path / "out", tmp_path / "documents", replace(PLAN, methods=("masked",), samples=3))
    assert [row.verdict for row in rows] == ["kept"] * 3


# ---- the closure


@pytest.mark.parametrize(("name", "lexicon"), SIZES)
def test_the_closure_is_true_and_says_what_no_document_says(name: str, lexicon: str, tmp_path: Path) -> None:
    sizes = SETS[name](lexicon=lexicon, **SIZES[name, lexicon]).sizes()
    (world,) = make_worlds(name, lexicon, 1, sizes, 0)
    write_folder(tmp_path / "documents", Document, world.documents)
    plan = replace(PLAN, methods=("closure",), per_document=3)
    rows = rows_of(run(tmp_path / "out", tmp_path / "documents", plan), "closure")
    (oracle,) = read_oracles(world.documents).values()
    for row in rows:
        (finding,) = oracle.judge(row.text)
        assert finding.verdict in TRUE and finding.verdict != STATED, row.text
        assert row.sources[0] in {one.doc_id for one in world.documents}
    assert len({row.text for row in rows}) == len(rows) >= 8
    beside = Counter(row.sources[0] for row in rows)
    assert max(beside.values()) <= 3 * 2


def test_only_generated_sets_have_a_closure(tmp_path: Path, made: Path) -> None:
    write_folder(tmp_path / "documents", Document, [Document("a", "Otters swim.", "mine")])
    with pytest.raises(InputError, match="there is no oracle: this is not a generated set"):
        plan_augmentation(tmp_path / "documents", tmp_path, BOOK, PLAN, model="m", context=ALL)


def test_test_questions_are_not_read(made: Path, tmp_path: Path) -> None:
    """Without the questions beside the documents, the rows are the same."""
    first = run(tmp_path / "a", made / "documents", replace(PLAN, methods=("closure",)))
    assert list(read_folder(made / "questions", Question))
    documents = list(read_folder(made / "documents", Document))
    write_folder(tmp_path / "documents", Document, documents)
    second = run(tmp_path / "b", tmp_path / "documents", replace(PLAN, methods=("closure",)))
    assert sorted(row.text for row in first) == sorted(row.text for row in second)


def test_what_a_model_wrote_takes_no_row_from_the_closure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So an arm that learns the closure has all of it, whatever other methods wrote; and the same for reversals."""

    def write(self: object, prompts: list[Prompt], on_answer: Callable[[int, Generation], None]) -> None:
        for at, prompt in enumerate(prompts):
            on_answer(at, Generation(prompt.prompt_id, "glon are less shiny than femp", "stop", 3))

    monkeypatch.setattr("augment_service.engines.fake.FakeEngine.generate", write)
    write_folder(tmp_path / "documents", Document, [Document("d", "femp are more shiny than glon", "reversals/w0")])
    rows = run(tmp_path / "out", tmp_path / "documents", replace(PLAN, methods=("local/reverse", "closure", "reverse")))
    found = [(row.method, row.text, row.verdict) for row in rows if row.text == "glon are less shiny than femp"]
    assert ("local/reverse", "glon are less shiny than femp", "kept") in found
    assert ("closure", "glon are less shiny than femp", "kept") in found
    assert [row.verdict for row in rows if row.method.startswith("reverse")] == ["kept", "repeated"]


def test_the_closure_has_nothing_weaker_than_what_follows_and_the_plain_wording_first() -> None:
    documents = [
        Document("a", "all femp are glon", "syllogisms/w0"),
        Document("b", "all glon are zusu", "syllogisms/w0"),
    ]
    closure = Closure(documents, "syllogisms/w0", 0)
    texts = {text for one in "ab" for text, _ in closure.texts(one, statements=9, wordings=1)}
    assert texts == {"all femp are zusu", "some glon are femp", "some zusu are glon", "some zusu are femp"}


# ---- names, and work without an engine


def test_methods_are_known_by_family_and_name() -> None:
    assert BOOK.names(["reverse", "global"]) == ["global/deduce", "reverse/words", "reverse/entities"]
    assert BOOK.select(["masked", "closure"]) == []
    with pytest.raises(InputError) as raised:
        BOOK.select(["revers"])
    for name in ("reverse", *MODEL_FREE):
        assert name in raised.value.hint


@pytest.mark.parametrize("methods", ["masked", "reverse/words", "local,closure"])
def test_a_teacher_has_no_distributions_of_what_no_model_wrote(
    methods: str, made: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["augment", "--model", str(TINY), "--documents", str(made / "documents"), "--methods", methods]
    said = refuse(capsys, *words, "--teacher-top-k", "4", "--out", str(tmp_path / "out"))
    assert "plain texts that the model wrote" in said


def test_an_arm_that_learns_what_is_not_written_is_refused(tmp_path: Path, capsys: Any) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'study = "s"\n[data.reversals]\n[augment]\nmethods = ["local"]\n[train.arms]\na = []\nb = ["reverse"]\n'
    )
    said = refuse(capsys, "run", str(recipe), "--out", str(tmp_path / "out"))
    assert "reverse/entities, which is not generated" in said


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def start(self: LazyEngines) -> None:
        raise AssertionError("an engine was wanted")

    monkeypatch.setattr(LazyEngines, "pool", property(start))
    yield


@pytest.mark.usefixtures("no_engine")
def test_a_command_with_such_methods_alone_starts_no_engine_and_resumes(made: Path, tmp_path: Path) -> None:
    words = ["augment", "--model", str(TINY), "--documents", str(made / "documents"), "--out", str(tmp_path / "out")]
    assert main([*words, "--methods", "reverse,closure"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "parts").glob("*.arrow")}
    assert main([*words, "--methods", "reverse,masked,closure"]) == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "parts").glob("*.arrow")}
    assert before and before.items() < after.items()
    rows = list(read_folder(tmp_path / "out" / AUGMENTATIONS, Augmentation))
    assert {row.method for row in rows} == set(MODEL_FREE)


def test_units_say_whether_they_need_a_model(made: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, methods=("local", "masked", "closure"))
    jobs = plan_augmentation(made / "documents", tmp_path, BOOK, plan, model="m", context=ALL)
    free = {job.name for job in jobs for unit in job.units() if is_model_free(unit)}
    assert free == {"masked", "semantic-tiny/w0 closure", "semantic-tiny/w1 closure"}
    assert {type(job.task) for job in jobs if job.name == "masked"} == {MaskedTask}
