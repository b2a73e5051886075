"""Verification: what is asked about an inference, golden numbers, verdicts, and what is not asked again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from augment_service.alternatives import alternatives, contradictions, numbers_in
from augment_service.augment import AUGMENTATIONS, UNVERIFIED
from augment_service.contexts import ALL
from augment_service.engines.protocol import Engine, EngineSpec
from augment_service.engines.start import start_engine
from augment_service.jobs import ShardedJob
from augment_service.verifiers import (
    UNSUPPORTED,
    Sentences,
    distinct,
    grounded,
    overlap,
    premises,
    premises_of,
    words_of,
)
from augment_service.verify import (
    Claim,
    Threshold,
    VerifyPlan,
    agreements,
    contradicted,
    parse_verifiers,
    plan_verification,
    restating_methods,
    seal_verification,
    verified_methods,
)
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import Augmentation, Document, Measurement, ScoreItem
from data.rendering import ENGLISH, ENGLISH_CHAT, load_book
from data.seeds import fingerprint
from data.store import list_shards, read_folder, read_shard, write_folder

TINY = Path("models/tiny")
BOOK = load_book(TINY)
NAN = math.nan
DOCUMENTS = ["all glon are femp", "no femp are klame", "krado are more shiny than klame"]
DEDUCE = next(template for template in BOOK.templates if template.method == "global/deduce")
ROW = Augmentation(
    augmentation_id="", corpus="syllogisms/w0", method="global/deduce", sources=("d0",), sentence=DOCUMENTS[0],
    text="", reasoning="femp : no femp are klame , so ", verdict="kept", support=NAN, finish_reason="stop", model="m",
    template=DEDUCE.fingerprint, context_id="c", temperature=0.7, seed=0,
)  # fmt: skip
TEXTS = ("no glon are klame", "all glon are klame", "no glon are glon", "klame are less shiny than krado")


def rows_of(texts: Sequence[str], **changes: Any) -> list[Augmentation]:
    """Inferences, each of a prompt of its own."""
    return [
        replace(ROW, augmentation_id=fingerprint("row", at, text), prompt_id=fingerprint(at), text=text, **changes)
        for at, text in enumerate(texts)
    ]


def write(folder: Path, rows: Sequence[Augmentation]) -> Path:
    documents = [Document(f"d{at}", text, ROW.corpus) for at, text in enumerate(DOCUMENTS)]
    write_folder(folder / "documents", Document, documents)
    write_folder(folder / UNVERIFIED, Augmentation, rows)
    return folder


def plan_of(text: str, methods: tuple[str, ...] = ("global/deduce",)) -> VerifyPlan:
    return VerifyPlan(parse_verifiers(text, where="test"), methods)


def jobs_of(out: Path, plan: VerifyPlan, **changes: Any) -> list[ShardedJob]:
    return plan_verification(
        out / "documents", out, BOOK, plan, **({"model": "m", "context": ALL, "seed": 0} | changes)
    )


def run(jobs: Sequence[ShardedJob], worker: EngineWorker) -> None:
    for unit in [unit for job in jobs for unit in job.units()]:
        worker.run_unit(*unit.args)  # type: ignore[arg-type]


def verify(out: Path, plan: VerifyPlan, worker: EngineWorker | None) -> list[Augmentation]:
    jobs = jobs_of(out, plan)
    if worker:
        run(jobs, worker)
    seal_verification(out / "documents", out, BOOK, plan, jobs, key="k")
    return list(read_folder(out / AUGMENTATIONS, Augmentation))


class Counting:
    """A worker on the fake engine that remembers every item it scores."""

    def __init__(self, window: int | None = None) -> None:
        self.worker = EngineWorker(EngineSpec("fake", "m", window=window))
        self.items: list[ScoreItem] = []
        engine: Any = self.worker._engine
        score = engine.score

        def counted(items: Sequence[ScoreItem], on_answer: Any = None) -> Any:
            self.items += items
            return score(items, on_answer)

        engine.score = counted


# ---- the numbers


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = start_engine(EngineSpec(kind="vllm", model=str(TINY), kv_cache_gib=0.1))
    yield engine
    engine.close()  # type: ignore[attr-defined]


def log_likelihood(before: str, text: str) -> tuple[float, int]:
    """That of a text by plain transformers, and its number of tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(TINY), AutoModelForCausalLM.from_pretrained(TINY)
    prefix, whole = (tokenizer(part)["input_ids"] for part in (before, before + text))
    with torch.no_grad():
        found = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), -1)
    places = range(len(prefix), len(whole))
    return sum(found[at - 1, whole[at]].item() for at in places), len(places)


def test_the_numbers_are_those_of_plain_transformers(engine: Engine, tmp_path: Path) -> None:
    worker = EngineWorker(EngineSpec("fake", "m"))
    worker._engine.score = engine.score  # type: ignore[method-assign]
    plan = plan_of("support=-99,margin=-99,confidence=-99")
    rows = verify(write(tmp_path, rows_of(TEXTS)), plan, worker)
    documents = "\n".join(DOCUMENTS) + "\n---\n"
    for row in rows:
        inside, count = log_likelihood(documents, row.text)
        alone, _ = log_likelihood("\n---\n", row.text)
        assert row.support == pytest.approx((inside - alone) / count, abs=1e-4)
        others = [
            other.text for other in alternatives(row.text) if " not" not in other.text and "fewer" not in other.text
        ]
        best = max(likelihood / num for likelihood, num in (log_likelihood(documents, text) for text in others))
        assert row.margin == pytest.approx(inside / count - best, abs=1e-4)
        assert row.agreement != row.agreement and row.premises != row.premises  # not asked for
        written, count = log_likelihood(f"{documents}deduce : {row.sentence} =>", f" {row.reasoning}{row.text}")
        assert row.confidence < 0 and abs(row.confidence - written / count) < 2  # a mean over orders of the documents


def test_confidence_is_the_mean_over_orders_of_the_documents(tmp_path: Path) -> None:
    asked = Counting()
    verify(write(tmp_path, rows_of(TEXTS[:1])), plan_of("confidence=-99"), asked.worker)
    assert len(asked.items) == 3 and asked.items[0].context == "\n".join(DOCUMENTS) + "\n---\n"
    assert {frozenset(item.context.splitlines()) for item in asked.items} == {frozenset([*DOCUMENTS, "---"])}
    assert {item.prompt + item.joiner + item.continuations[0] for item in asked.items} == {
        f"deduce : {DOCUMENTS[0]} => femp : no femp are klame , so no glon are klame"
    }


def test_rows_without_a_shared_context_are_measured_against_their_sources(tmp_path: Path) -> None:
    rows = rows_of(TEXTS[:2], method="local/reverse", reasoning="")
    rows += [replace(row, augmentation_id=fingerprint(row), sources=("d2",), span=(0, 5)) for row in rows[:1]]
    asked = Counting()
    verify(write(tmp_path, rows), plan_of("support=-99", ("local/reverse",)), asked.worker)
    contexts = [(item.context, item.unconditional) for item in asked.items]
    assert contexts == [("all glon are femp\n---\n", "\n---\n")] * 2 + [("krado\n---\n", "\n---\n")]


def test_agreement_by_hand() -> None:
    kept, again, lost = "kept", "repeated", "nothing follows"
    cases = [  # target, prompt, text, verdict, share
        ("s0", "p0", "a is b", kept, 2 / 3),
        ("s0", "p1", "A is b.", again, 2 / 3),
        ("s0", "p2", "c is d", kept, 1 / 3),
        ("s0", "p2", "x", lost, 0.0),
        ("s1", "p3", "a is b", again, 1.0),  # another target
    ]
    rows = [
        replace(ROW, sentence=sentence, prompt_id=prompt, text=text, verdict=verdict)
        for sentence, prompt, text, verdict, _ in cases
    ]
    assert list(agreements(rows)) == pytest.approx([share for *_, share in cases])


def test_premises_are_looked_up_in_single_sentences() -> None:
    assert premises_of("femp : no femp are klame , so ", ", so ") == ["no femp are klame"]
    assert premises_of("The pump stops. The tank is full, so", ", so") == ["The pump stops.", "The tank is full"]
    assert premises_of("", ", so ") == premises_of(" , so ", ", so ") == []
    sentences = Sentences(words_of(text) for text in ("it is said that no femp count as klame", "all zarp are yomp"))
    assert premises(["no femp are klame"], sentences) == 1
    assert premises(["all femp are klame"], sentences) == pytest.approx(2 / 3)
    assert premises(["no femp are klame", "no zarp are klame"], sentences) == pytest.approx(2 / 3)  # the least
    assert math.isnan(premises([], sentences)) and math.isnan(premises(["are"], sentences))
    assert premises(["no femp"], Sentences(())) == 0


WORDS = st.frozensets(st.sampled_from("abcdefgh"), max_size=5)


@given(st.lists(WORDS), WORDS)
def test_the_inverted_words_give_what_a_search_of_all_sentences_gives(
    sentences: list[frozenset[str]], words: frozenset[str]
) -> None:
    assert Sentences(sentences).most_shared(words) == max((len(words & one) for one in sentences), default=0)


def test_an_inference_has_its_words_from_what_it_follows_from() -> None:
    known = ["the maker of glon is femp", "the ruler of femp is klame"]
    assert grounded("the ruler of the maker of glon is klame", known) == 1
    assert grounded("the maker of the maker of glon is klame", known) == pytest.approx(5 / 6)  # "maker" is there once
    assert grounded("klame", []) == 0 and math.isnan(grounded("is", known))


@pytest.mark.parametrize(
    ("text", "value"),
    [("all otters are otters", 0), ("The otter is an otter.", 0), ("no otters are stoats", 1), ("otters swim", 1)],
)
def test_a_statement_about_itself_is_found(text: str, value: float) -> None:
    assert distinct(text) == value


# ---- alternatives


def test_alternatives_by_hand() -> None:
    assert [
        (one.text, one.contradicts) for one in alternatives("All otters are more shy than 3 stoats.", ["3", "5"])
    ] == [
        ("No otters are more shy than 3 stoats.", True),
        ("All otters are less shy than 3 stoats.", True),
        ("All otters are fewer shy than 3 stoats.", True),
        ("Some otters are more shy than 3 stoats.", False),
        ("All otters are not more shy than 3 stoats.", True),
        ("All otters are more shy than 5 stoats.", True),
    ]
    assert [one.text for one in alternatives("It is not open")] == ["It is open"]
    assert alternatives("otters swim") == [] and numbers_in("from 1,250.5 to A4 in 1998") == ["1,250.5", "1998"]


@given(st.text(max_size=60), st.lists(st.from_regex(r"\A[0-9]{1,3}\Z"), max_size=3))
def test_alternatives_differ_from_the_statement_and_each_other(text: str, numbers: list[str]) -> None:
    found = [one.text for one in alternatives(text, numbers)]
    assert text not in found and len(set(found)) == len(found)
    contradictions(text)


def test_of_contradicting_statements_the_likeliest_consistent_ones_stay() -> None:
    texts = ["no a are b", "all a are b", "some a are b", "x was built in 1912", "x was built in 1921", "All A are B."]
    claims = [Claim(at, text, -value) for at, (text, value) in enumerate(zip(texts, (3, 1, 2, 2, 1, 5), strict=True))]
    assert contradicted(claims) == [0, 3]  # "all" and "some" hold together
    assert contradicted([claims[0], claims[5]]) == [5] and contradicted([]) == []


# ---- thresholds and verdicts


def test_a_quantile_is_one_of_the_values_and_ignores_nan() -> None:
    values = [3.0, NAN, 1.0, 2.0, 2.0]
    assert Threshold(0.5, is_quantile=True).bound(values) == 2.0
    assert Threshold(0.5, is_quantile=True).bound(values[::-1]) == 2.0
    assert Threshold(0.5, is_quantile=True).bound([NAN]) == -math.inf and Threshold(0.5).bound([NAN]) == 0.5


@pytest.mark.parametrize(
    "text", ["suport=1", "support", "support=x", "support=q2", "support=nan", "support=1,support=2", ""]
)
def test_wrong_verifiers_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_verifiers(text, where="--verify")


def test_what_is_verified_by_default() -> None:
    assert parse_verifiers("none", where="") == {} and set(parse_verifiers("auto", where="")) == {
        "premises",
        "grounded",
        "distinct",
        "overlap",
    }
    both, local = ("local", "global"), ("local/reverse", "local/rephrase")
    assert verified_methods(BOOK, both, ()) == ("global/deduce",)
    assert verified_methods(BOOK, both, ("local/reverse",)) == ("local/reverse",)
    assert set(restating_methods(BOOK, both, ())) == set(local)
    assert restating_methods(BOOK, both, ("local/reverse",)) == ("local/reverse",)
    assert restating_methods(BOOK, both, ("global",)) == restating_methods(BOOK, ("global",), ()) == ()


@pytest.mark.parametrize(
    ("sentence", "text", "value"),
    [
        ("The otter is heavier than the stoat.", "The stoat is lighter than the otter.", 3 / 4),
        ("The otter is heavier than the stoat.", "An otter has a greater weight than a stoat.", 3 / 5),
        ("Ada Pell has been mayor since 1998.", "Since 1998, Ada Pell governs.", 3 / 5),
        ("It takes 5 km.", "It takes 6 km.", 1 / 2),
        ("The JIT compiles.", "The SQL compiles.", 1 / 2),
        ("Otters swim.", "Otters swim, and otters and otters swim in rivers.", 2 / 6),
        ("Otters swim.", "Nothing of the kind was said.", 0.0),
        ("Выдры плавают в реке.", "В реках плавает выдра.", 2 / 3),
        ("Otters swim.", "So be it.", 0.0),
        ("So be it.", "Otters swim.", math.nan),
        ("カワウソは泳ぐ。", "泳ぐのはカワウソだ。", math.nan),
        ("", "Otters swim.", math.nan),
    ],
)
def test_a_restatement_has_the_words_of_its_sentence(sentence: str, text: str, value: float) -> None:
    assert overlap(text, sentence) == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("file", [ENGLISH, ENGLISH_CHAT])
def test_worked_examples_of_our_books_pass(file: Path) -> None:
    """A good paraphrase shares fewer words than a plain one: what the books ask for must not be rejected."""
    bound = parse_verifiers("auto", where="")["overlap"].number
    for template in load_book(None, file).select(["local"]):
        for shot in template.shots:
            for line in shot["answer"].splitlines():
                assert overlap(line, shot["sentence"]) >= bound, line


def test_a_restatement_of_something_else_is_rejected_and_conclusions_are_not_asked(tmp_path: Path) -> None:
    said = "The otter is heavier than the stoat."
    rows = [
        replace(ROW, augmentation_id=f"r{at}", method=method, sentence=said, text=text)
        for at, (method, text) in enumerate(
            (
                ("local/reverse", "The stoat is lighter than the otter."),
                ("local/reverse", "The book has a new chapter on rivers."),
                ("global/deduce", "A bear outweighs all of them."),
            )
        )
    ]
    out = write(tmp_path, rows)
    plan = replace(plan_of("overlap=0.4"), restating=("local/reverse",))
    found = seal_verification(out / "documents", out, BOOK, plan, [], key="k")
    assert (found.num_verified, dict(found.rejected)) == (3, {UNSUPPORTED: 1})
    sealed = list(read_folder(out / AUGMENTATIONS, Augmentation))
    assert [row.verdict for row in sealed] == ["kept", UNSUPPORTED, "kept"]
    assert [round(row.overlap, 2) for row in sealed[:2]] == [0.75, 0.0] and math.isnan(sealed[2].overlap)


def test_verdicts_come_in_the_order_of_the_verifiers_and_nan_rejects_nothing(tmp_path: Path) -> None:
    rows = rows_of(TEXTS)
    rows[3] = replace(rows[3], reasoning="")  # no premises
    rows[1] = replace(rows[1], reasoning="femp : all femp are klame , so ")
    rows += [replace(row, augmentation_id=fingerprint(row), verdict="copied") for row in rows[:1]]
    rows += [replace(row, augmentation_id=fingerprint(row), method="local/reverse") for row in rows[2:3]]
    found = verify(write(tmp_path, rows), plan_of("premises=0.8,distinct=1,agreement=0.2"), None)
    assert [row.verdict for row in found] == ["kept", "unsupported", "unsupported", "kept", "copied", "kept"]
    assert [row.premises for row in found[:3]] == pytest.approx([1, 2 / 3, 1])
    assert [row.distinct for row in found[:4]] == [1, 1, 0, 1]
    assert all(math.isnan(value) for row in found[4:] for value in (row.premises, row.distinct, row.agreement))
    assert math.isnan(found[3].premises) and math.isnan(found[0].support)
    assert [row.text for row in found] == [row.text for row in rows]


def test_a_quantile_rejects_the_same_rows_each_time(tmp_path: Path) -> None:
    rows, plan = rows_of([f"krado are w{at}" for at in range(20)]), plan_of("support=q0.25")
    first = verify(write(tmp_path / "a", rows), plan, Counting().worker)
    assert repr(first) == repr(verify(write(tmp_path / "b", rows), plan, Counting().worker))
    rejected = [row.support for row in first if row.verdict == "unsupported"]
    assert len(rejected) == 4 and max(rejected) < min(row.support for row in first if row.verdict == "kept")


# ---- the work


def test_nothing_is_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("augment_service.verify.ROWS_PER_UNIT", 2)
    rows, plan = rows_of(TEXTS), plan_of("support=-99")
    jobs, first = jobs_of(write(tmp_path, rows), plan), Counting()
    first.worker.run_unit(*jobs[0].units()[0].args)  # type: ignore[arg-type]
    assert len(first.items) == 2  # killed after the first unit
    rest = Counting()
    whole = verify(tmp_path, plan, rest.worker)
    assert [item.continuations[0] for item in rest.items] == list(TEXTS[2:])
    # More rows change the shards; another verifier, and its own items alone, come in addition.
    more = rows_of([*TEXTS, "glon are shiny"])
    write(tmp_path, more[::-1])
    wider = Counting()
    found = verify(tmp_path, plan, wider.worker)
    assert [item.continuations[0] for item in wider.items] == ["glon are shiny"]
    assert [row.support for row in found[:0:-1]] == [row.support for row in whole]
    both = Counting()
    verify(tmp_path, plan_of("support=-99,confidence=-99"), both.worker)
    assert {item.prompt for item in both.items} == {f"deduce : {DOCUMENTS[0]} =>"}
    other = Counting()
    run(jobs_of(tmp_path, plan, model="another"), other.worker)
    assert len(other.items) == 5


def test_what_cannot_be_measured_stays_and_is_counted(tmp_path: Path) -> None:
    rows = rows_of([*TEXTS, " and ".join(["krado"] * 60)])
    plan, asked = plan_of("support=-99,premises=0.8"), Counting(window=50)
    jobs = jobs_of(write(tmp_path, rows), plan)
    run(jobs, asked.worker)
    found = seal_verification(tmp_path / "documents", tmp_path, BOOK, plan, jobs, key="k")
    assert (found.num_refused, found.num_verified, dict(found.rejected)) == (1, 5, {})
    last = list(read_folder(tmp_path / AUGMENTATIONS, Augmentation))[-1]
    assert last.verdict == "kept" and math.isnan(last.support) and last.premises == 1
    assert {row.verifier for shard in jobs[0].targets for row in read_shard(shard, Measurement)} == {"support"}
    assert list_shards(tmp_path / AUGMENTATIONS, Augmentation)
