"""Augmentation methods: prompts, what is made of what was written, prompt books, and the sealed folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from augment_service.answers.folding import fold, fold_column
from augment_service.answers.judging import is_fragment
from augment_service.augment import AUGMENTATIONS, CONTEXTS, plan_augmentation, seal_augmentations
from augment_service.contexts import ALL, NONE, ContextSpec
from augment_service.engines.protocol import EngineSpec
from augment_service.methods import (
    NO_CONTEXT,
    AugmentPlan,
    Target,
    build_prompts,
    document_targets,
    parse_generation,
    sentence_targets,
)
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import Augmentation, Context, Document, Generation, Prompt, Question
from data.rendering import BOOK_NAME, ENGLISH, NONSENSE, PromptBook, Template, load_book
from data.store import read_folder, read_manifest, write_folder

DOCUMENTS = [
    Document("d1", "femp are more shiny than glon", "w"),
    Document("d2", "all troff are yomp. all yomp are zarp.", "w"),
]
PLAN = AugmentPlan(methods=("local", "global"), samples=2, temperature=0.7, seed=0)
SHARED = Context("c", "femp are more shiny than glon\nall troff are yomp.\n", ("d1", "d2"))
ENGLISH_BOOK = load_book(None)
REVERSE = ENGLISH_BOOK.select(["local/reverse"])[0]


@pytest.fixture
def book(tmp_path: Path) -> PromptBook:
    (tmp_path / BOOK_NAME).write_text(NONSENSE.read_text())
    return load_book(tmp_path)


def asked_of(
    template: Template, document: Document, plan: AugmentPlan = PLAN, model: str = "m", shared: Context = SHARED
) -> list[tuple[Prompt, Target]]:
    found = sentence_targets(document)
    if "sentence" not in template.placeholders:
        found = document_targets(document, [(0, len(document.text))])
    targets = (replace(target, context=shared if template.is_global else NO_CONTEXT) for target in found)
    return [(prompt, one) for one in targets for prompt in build_prompts(document, one, template, plan, model)]


def prompts_of(*args: object, **named: object) -> list[Prompt]:
    return [prompt for prompt, _ in asked_of(*args, **named)]  # type: ignore[arg-type]


def row_of(text: str, template: Template, document: Document, book: PromptBook, reason: str = "stop") -> Augmentation:
    ((prompt, target),) = asked_of(template, document, replace(PLAN, samples=1))
    written = Generation("", text, reason, 1)
    (row,) = parse_generation(prompt, written, document, target, template, nothing=book.nothing, model="m")
    return row


def verdict(text: str, *, template: Template = REVERSE, sentence: str = "Otters swim.", reason: str = "stop") -> str:
    return row_of(text, template, Document("d", sentence, "w"), ENGLISH_BOOK, reason).verdict


# ---- prompts and ids


def test_local_prompts_see_one_sentence_and_global_ones_the_context(book: PromptBook) -> None:
    for template in book.select(["local", "global"]):
        prompts = prompts_of(template, DOCUMENTS[1])
        assert len(prompts) == 2 * PLAN.samples
        for prompt in prompts:
            assert prompt.sentence in prompt.text
            assert (prompt.context is SHARED.text) == template.is_global
            assert template.is_global or prompt.context == f"{prompt.sentence}\n---\n"


def test_equal_sentences_at_two_places_are_two_rows() -> None:
    document = Document("d", "See below. Otters swim. See below.", "w")
    ids = [prompt.prompt_id for prompt in prompts_of(REVERSE, document)]
    seeds = [prompt.seed for prompt in prompts_of(REVERSE, document)]
    assert len(set(ids)) == len(set(seeds)) == 6
    assert {len(one) for one in ids} == {32}


def test_fragments_are_not_asked_about_and_places_stay() -> None:
    document = Document("d", "Before:\n\nOtters swim.\n\nUNLISTEN\n\nAfter:\n\nStoats run.", "w")
    assert [(one.place, one.sentence) for one in sentence_targets(document)] == [
        (1, "Otters swim."),
        (4, "Stoats run."),
    ]


@pytest.mark.parametrize(
    "text",
    ["5.6. Modifying Tables", "F.41.1. Examples", "2.1 Overview", "Table 8.3.", "plpy.info(msg, **kwargs)",
     "work_mem (integer)", "UNLISTEN", "| a | b |", "---"],
)  # fmt: skip
def test_headings_and_calls_state_nothing(text: str) -> None:
    assert is_fragment(text)


@pytest.mark.parametrize(
    "text",
    ["Otters swim.", "Otters swim", "It is 5.6 metres long", "5.6 metres is its length.", "Call f(x) twice.",
     "3.5 metres of rope hold the boat that belongs to the old miller", "カワウソは泳ぐ。", "นากว่ายน้ำในแม่น้ำ"],
)  # fmt: skip
def test_statements_are_no_fragments(text: str) -> None:
    assert not is_fragment(text)


def test_an_id_names_all_that_was_asked() -> None:
    document = Document("d", "Otters swim.", "w")
    deduce = ENGLISH_BOOK.select(["global/deduce"])[0]
    asked = [
        prompts_of(REVERSE, document),
        prompts_of(REVERSE, document, replace(PLAN, temperature=1.0)),
        prompts_of(REVERSE, document, replace(PLAN, seed=1)),
        prompts_of(REVERSE, document, model="other"),
        prompts_of(REVERSE.model_copy(update={"max_tokens": 9}), document),
        prompts_of(REVERSE, replace(document, doc_id="e")),
        prompts_of(deduce, document),
        prompts_of(deduce, document, shared=replace(SHARED, context_id="other")),
    ]
    ids = [prompt.prompt_id for prompts in asked for prompt in prompts]
    assert len(set(ids)) == len(ids)
    assert [p.prompt_id for p in prompts_of(REVERSE, document)] == [p.prompt_id for p in asked[0]]


def test_text_of_documents_is_never_a_placeholder() -> None:
    document = Document("d", "Write {documents} and {sentence} here.", "w")
    (prompt, *_) = prompts_of(REVERSE, document)
    assert "Write {documents} and {sentence} here." in prompt.text
    shared = ENGLISH_BOOK.select(["global"])[0].shared_context(["{sentence}", "{documents}"])
    assert "{sentence}\n{documents}" in shared


# ---- what was written


@pytest.mark.parametrize(
    "text", ["Nothing follows.", "nothing follows", '"Nothing follows."', "- Nothing follows.", "1. NOTHING FOLLOWS!"]
)
def test_nothing_follows_in_any_spelling(text: str) -> None:
    assert verdict(text) == "nothing follows"


@pytest.mark.parametrize("text", ["Otters swim.", "otters swim", '"Otters swim."', "* Otters  swim."])
def test_the_sentence_itself_is_a_copy(text: str) -> None:
    assert verdict(text) == "copied"


@pytest.mark.parametrize("text", ["", " \n ", '""', "..."])
def test_nothing_written_is_empty(text: str) -> None:
    assert verdict(text) == "empty"


def test_other_verdicts() -> None:
    assert verdict("Swimming is what otters do.") == "kept"
    assert verdict("Swimming is", reason="length") == "unfinished"
    reasoned = REVERSE.model_copy(update={"answer_after": ", so "})
    assert verdict("all a are b , all b are c", template=reasoned) == "unparsed"
    assert verdict("all a are b , so all a are c", template=reasoned) == "kept"
    assert verdict("Nothing follows.", template=reasoned) == "nothing follows"


def test_only_the_conclusion_of_a_deduction_is_kept(book: PromptBook) -> None:
    template = book.select(["global/deduce"])[0]
    row = row_of("all yomp are zarp , so all troff are zarp", template, DOCUMENTS[0], book)
    assert (row.text, row.reasoning, row.verdict) == ("all troff are zarp", "all yomp are zarp , so ", "kept")
    (prompt,) = prompts_of(template, DOCUMENTS[0], replace(PLAN, samples=1))
    assert (row.sources, row.context_id, row.prompt_id) == (("d1",), "c", prompt.prompt_id)


def test_both_folds_are_one() -> None:
    import pyarrow as pa

    texts = ["“Otters swim.”", "OTTERS swim", " x! ", "", "ÄÖ ß", "a.b"]
    assert fold_column(pa.chunked_array([texts])).to_pylist() == [fold(text) for text in texts]


# ---- the stage


def augment(out: Path, documents: Path, book: PromptBook, order: int = 1, **options: object) -> list[Augmentation]:
    """The stage by the fake engine, whose units are done in that order."""
    jobs = plan_augmentation(documents, out, book, PLAN, model="m", context=ALL, **options)  # type: ignore[arg-type]
    worker = EngineWorker(EngineSpec(kind="fake", model="none"))
    for unit in [unit for job in jobs for unit in job.units()][::order]:
        worker.run_unit(*unit.args)  # type: ignore[arg-type]
    seal_augmentations(documents, out, jobs)
    return list(read_folder(out / AUGMENTATIONS, Augmentation))


def asked(rows: list[Augmentation]) -> list[str]:
    """The rows without what an engine counted: what it has in its cache depends on the order."""
    return [repr(replace(row, tokens=())) for row in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [Document(f"{c}{at}", f"otter {at % 3} swims. stoat {at} runs.", c) for c in "ab" for at in range(200)]
    write_folder(tmp_path / "documents", Document, rows)
    return tmp_path / "documents"


def test_verdicts_do_not_depend_on_the_order_of_the_units(folder: Path, tmp_path: Path, book: PromptBook) -> None:
    first = augment(tmp_path / "first", folder, book)
    assert first and asked(first) == asked(augment(tmp_path / "second", folder, book, order=-1))
    assert len({row.augmentation_id for row in first}) == len(first)
    found = datasets.load_from_disk(str(tmp_path / "first" / AUGMENTATIONS))
    assert found.num_rows == len(first)
    assert {"text", "method", "sources", "verdict", "support"} <= set(found.column_names)


def test_of_equal_texts_in_a_corpus_the_first_is_kept(
    folder: Path, tmp_path: Path, book: PromptBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(self: object, prompts: list, on_answer: Callable[[int, Generation], None]) -> None:
        document = "Otter 1 swims. stoat 1 runs"  # said by a document, but for case and the full stop
        texts = [document if at % 2 else "The same text, in all." for at in range(len(prompts))]
        for at, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            on_answer(at, Generation(prompt.prompt_id, text, "stop", 3))

    monkeypatch.setattr("augment_service.engines.fake.FakeEngine.generate", same)
    rows = [row for row in augment(tmp_path / "out", folder, book) if not row.method.startswith("global")]
    kept = [row for row in rows if row.verdict == "kept"]
    assert [(row.corpus, row.text) for row in kept] == [(corpus, "The same text, in all.") for corpus in "ab"]
    assert {row.verdict for row in rows} == {"kept", "repeated"}


def test_no_row_asks_a_question_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: object, prompts: list, on_answer: Callable[[int, Generation], None]) -> None:
        text = (
            "Question: Where do the otters swim?\nAnswer: In the lake.\n\nQuestion: Who runs there?\nAnswer: A stoat."
        )
        for at, prompt in enumerate(prompts):
            on_answer(at, Generation(prompt.prompt_id, text, "stop", 3))

    monkeypatch.setattr("augment_service.engines.fake.FakeEngine.generate", ask)
    document = Document("d", "The otters swim in the lake. A stoat runs there.", "w")
    write_folder(tmp_path / "documents", Document, [document])
    asked = Question(
        "q", "w", "test", "qa", "Question: where do the otters swim?\nAnswer:", ("lake", "sea"), 0, "f", ()
    )
    cloze = Question("r", "w", "test", "cloze", "A stoat", ("runs", "swims"), 0, "g", ())  # the document says it
    write_folder(tmp_path / "questions", Question, [asked, cloze])
    plan = replace(PLAN, methods=("self_qa",), samples=1)
    jobs = plan_augmentation(tmp_path / "documents", tmp_path, ENGLISH_BOOK, plan, model="m", context=ALL)
    for unit in [unit for job in jobs for unit in job.units()]:
        EngineWorker(EngineSpec(kind="fake", model="none")).run_unit(*unit.args)  # type: ignore[arg-type]
    keys = set()
    for tests, verdicts in ((None, ["kept", "kept"]), (tmp_path / "questions", ["test question", "kept"])):
        seal_augmentations(tmp_path / "documents", tmp_path, jobs, tests=tests)
        assert [row.verdict for row in read_folder(tmp_path / AUGMENTATIONS, Augmentation)] == verdicts
        keys.add(read_manifest(tmp_path / AUGMENTATIONS)["key"])
    assert len(keys) == 2


def test_each_context_is_stored_once_and_nothing_else_grows_with_it(
    folder: Path, tmp_path: Path, book: PromptBook
) -> None:
    augment(tmp_path / "out", folder, book)
    contexts = list((tmp_path / "out" / CONTEXTS).glob("*.arrow"))
    assert len(contexts) == 2  # one for each corpus
    size = sum(len(row.text) for row in read_folder(folder, Document))
    assert sum(path.stat().st_size for path in contexts) < 3 * size
    assert read_manifest(tmp_path / "out" / AUGMENTATIONS)["key"]


def test_wrong_contexts_are_refused_before_anything_is_written(folder: Path, tmp_path: Path, book: PromptBook) -> None:
    for context, window in ((NONE, None), (ContextSpec("required"), None), (ALL, 4)):
        with pytest.raises(InputError):
            plan_augmentation(folder, tmp_path / "out", book, PLAN, model="m", context=context, window=window)
    assert not (tmp_path / "out").exists()


def test_a_shard_of_the_result_stays_small(folder: Path, tmp_path: Path, book: PromptBook, monkeypatch) -> None:
    monkeypatch.setattr("data.store.SHARD_BYTES", 1 << 18)
    monkeypatch.setattr("augment_service.augment.ROWS_PER_BATCH", 64)
    rows = augment(tmp_path / "out", folder, book)
    shards = list((tmp_path / "out" / AUGMENTATIONS).glob("*.arrow"))
    assert len(shards) > 2 and rows
    assert max(path.stat().st_size for path in shards) < 1 << 18


# ---- prompt books


def test_an_unknown_method_names_the_known_ones(book: PromptBook) -> None:
    with pytest.raises(InputError) as raised:
        book.select(["locla"])
    assert "global/deduce" in raised.value.hint


def test_a_file_comes_before_the_models_own_book_and_that_before_english(tmp_path: Path) -> None:
    assert load_book(tmp_path).nothing == load_book(None).nothing == ENGLISH_BOOK.nothing
    (tmp_path / BOOK_NAME).write_text(NONSENSE.read_text())
    assert load_book(tmp_path).nothing == "nothing follows"
    assert load_book(tmp_path, ENGLISH).nothing == ENGLISH_BOOK.nothing


TABLE = '[local.mine]\ntext = "say {sentence}"\nmax_tokens = 9\n'
HEAD = 'nothing = "none"\n[icl]\ncontext = "{documents}"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEAD + TABLE + 'stopp = "x"\n', ("local.mine", "stopp")),
        (HEAD + TABLE + 'method = "local/other"\n', ("local.mine", "method")),
        (HEAD + TABLE.replace("local", "couples"), ("couples", "pairs")),
        (HEAD + TABLE.replace("local", "pairs"), ("pairs.mine", "context", "{documents}")),
        (HEAD + TABLE.replace("{sentence}", "{documents}"), ("local.mine", "text", "{documents}")),
        (HEAD + TABLE.replace("local", "self_qa"), ("self_qa.mine", "text", "{sentence}")),
        (
            HEAD + TABLE.replace("local", "strategies").replace("sentence", "document"),
            ("strategies.mine", "{strategy}"),
        ),
        (HEAD + TABLE.replace("local", "focal").replace("sentence", "document} {question"), ("focal.propose",)),
        (HEAD + TABLE + 'parser = "words"\n', ("local.mine", "parser")),
        (HEAD + TABLE + 'row = "{question} {answer}"\n', ("local.mine", "row", "questions")),
        (HEAD + TABLE.replace("{sentence}", "it"), ("local.mine", "text", "{sentence}")),
        (HEAD + TABLE.replace("local", "global"), ("global.mine", "context", "{documents}")),
        (HEAD + TABLE.replace("9", "0"), ("local.mine", "max_tokens")),
        (HEAD + TABLE.replace("9", '"9"'), ("local.mine", "max_tokens")),
        (HEAD.replace("{documents}", "docs") + TABLE, ("icl", "context", "{documents}")),
        ('nothing = "none"\n' + TABLE, ("icl",)),
        (HEAD.replace('nothing = "none"', "nothing = 3") + TABLE, ("nothing",)),
        (HEAD + "[local.mine\n", ("TOML",)),
    ],
)
def test_a_broken_book_is_an_error_that_names_file_table_and_key(
    tmp_path: Path, text: str, named: tuple[str, ...]
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError) as raised:
        load_book(None, tmp_path / "mine.toml")
    assert str(tmp_path / "mine.toml") in raised.value.where
    assert raised.value.hint
    for word in named:
        assert word in str(raised.value)


def test_a_template_may_name_the_heading_of_the_document(tmp_path: Path) -> None:
    text = TABLE.replace("say {sentence}", "{heading}: {sentence}") + 'context = "On {heading}. "\n'
    (tmp_path / "mine.toml").write_text(HEAD + text)
    (template,) = load_book(None, tmp_path / "mine.toml").select(["local"])
    assert "heading" in template.placeholders
    document = Document("d", "It is heavy.", "w", "Otters > {sentence}")
    prompt, _ = prompts_of(template, document)
    assert (prompt.context, prompt.text) == ("On Otters > {sentence}. ", "Otters > {sentence}: It is heavy.")


@pytest.mark.parametrize("name", [".", "none.toml", "bytes.toml"])
def test_what_is_no_book_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError):
        load_book(None, tmp_path / name)


def test_a_book_of_ones_own_works(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(HEAD + TABLE)
    (template,) = load_book(None, tmp_path / "mine.toml").select(["local"])
    assert (template.method, template.prompt({"sentence": "x"}), template.stop) == ("local/mine", "say x", "\n")
