"""What an augmentation costs before it is spent, some of the documents alone, and where a row comes from."""

import dataclasses
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from training_runs import make_run, make_world

from augment_service.augment import (
    AUGMENTATIONS,
    PARTS,
    AugmentTask,
    plan_augmentation,
    seal_augmentations,
)
from augment_service.contexts import ALL
from augment_service.engines.fake import FakeEngine
from augment_service.engines.protocol import EngineSpec
from augment_service.engines.window import CacheShape
from augment_service.estimates import draw_sample, estimate_totals
from augment_service.jobs import ShardedJob, job_of, row_ranges
from augment_service.measured import measure_answers
from augment_service.methods import AugmentPlan
from augment_service.model_folder import load_tokenizer
from augment_service.plan import Plan, plan_cost
from augment_service.prefix_cache import PrefixCache
from augment_service.provenance import (
    AskedPrompt,
    count_methods,
    find_row,
    note_origin,
    open_sources,
    rebuild_prompt,
    rows_of_document,
)
from augment_service.selection import choose_few, choose_within, first_rows
from augment_service.tokens import TokenRow
from augment_service.worker import EngineWorker
from data.errors import InputError
from data.records import Augmentation, Document, ShardReceipt
from data.rendering import load_book
from data.store import read_folder, write_folder, write_json
from pipeline import progress
from pipeline.augment_report import show_methods, show_plan, show_preview
from pipeline.cli import main
from pipeline.progress import waiting
from pipeline.stages.resources import _seconds_by_job
from train.run.keys import key_of
from train.run.scheduled import count_scheduled, find_checkpoints
from train.texts.sources import TextSource

ROOT = Path(__file__).parent.parent
CACHE = CacheShape(4, 1 << 20)
ENGLISH = load_book(None)
PLAN = AugmentPlan(("local", "global", "self_qa", "focal"), samples=2, temperature=0.7, seed=0)
WORDS = "otter stoat mayor river heavier lighter older north market bridge".split()


def document(number: int, sentences: int, corpus: str = "w") -> Document:
    said = (" ".join(WORDS[(number + at * word) % 10] for word in range(4 + at % 5)) for at in range(sentences))
    return Document(f"d{number}", " ".join(f"The {one} {number}." for one in said), corpus, "On [bold]otters[/bold]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "documents", Document, [document(number, 1 + number % 7) for number in range(60)])
    return tmp_path / "documents"


def jobs_of(folder: Path, out: Path, plan: AugmentPlan = PLAN, **options: Any) -> list[ShardedJob]:
    return plan_augmentation(folder, out, ENGLISH, plan, model="m", context=ALL, **options)


def do(jobs: list[ShardedJob]) -> None:
    worker = EngineWorker(EngineSpec(kind="fake", model="none"))
    for unit in [unit for job in jobs for unit in job.units()]:
        worker.run_unit(*unit.args)  # type: ignore[arg-type]


def cost(jobs: list[ShardedJob], out: Path) -> Plan:
    return plan_cost(jobs, out / PARTS, CACHE, seed=0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of all prompts that engines are asked from here on."""
    found: list[str] = []
    generate = FakeEngine.generate

    def noted(self: FakeEngine, prompts: Any, on_answer: Any = None) -> Any:
        found.extend(prompt.prompt_id for prompt in prompts)
        return generate(self, prompts, on_answer)

    monkeypatch.setattr(FakeEngine, "generate", noted)
    return found


# ---- the plan


def test_a_small_corpus_is_counted_as_the_engine_counts_it(folder: Path, tmp_path: Path) -> None:
    plan = AugmentPlan(("local", "global", "self_qa"), samples=2, temperature=0.7, seed=0)
    jobs = jobs_of(folder, tmp_path / "out", plan)
    found = cost(jobs, tmp_path / "out")
    assert found.is_exact and found.documents == 60
    do(jobs)
    rows = count_methods([target for job in jobs for target in job.targets])
    assert set(found.methods) == set(rows)
    for method, one in found.methods.items():
        assert (one.prompts, one.prompt_tokens) == (rows[method].prompts, rows[method].read)
        assert 0 < rows[method].written <= one.max_new_tokens
    assert found.total.prompts == sum(one.prompts for one in rows.values())
    written = sum(path.stat().st_size for path in (tmp_path / "out" / PARTS).glob("*.arrow"))
    assert written < found.total.bytes / 2 < 8 * written  # answers that are as long as they may be


def test_what_is_answered_costs_nothing(folder: Path, tmp_path: Path, asked: list[str]) -> None:
    jobs = jobs_of(folder, tmp_path / "out")
    before = cost(jobs, tmp_path / "out")
    do(jobs_of(folder, tmp_path / "out", ranges=first_rows(row_ranges(folder, rows_per_unit=128), 20)))
    left = cost(jobs_of(folder, tmp_path / "out"), tmp_path / "out").total
    counted = {method for method in before.methods if not before.methods[method].assumed}
    assert left.answered and left.prompts < before.total.prompts
    again = cost(jobs_of(folder, tmp_path / "out"), tmp_path / "out")
    for method in counted:
        assert again.methods[method].prompts + again.methods[method].answered == before.methods[method].prompts
    asked.clear()
    jobs = jobs_of(folder, tmp_path / "out")
    do(jobs)
    exact = sum(again.methods[method].prompts for method in counted)
    assert exact <= len(asked) == len(set(asked)) <= again.total.prompts  # proposals may be fewer than assumed
    done = cost(jobs_of(folder, tmp_path / "out"), tmp_path / "out").total
    assert (done.prompts, done.prompt_tokens, done.bytes, done.assumed) == (0, 0, 0, False)
    assert done.answered == len(
        {one for job in jobs for table in job.tables() for one in table["prompt_id"].to_pylist()}
    )


def test_a_large_corpus_is_estimated_within_the_stated_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    sizes = np.minimum(draw.lognormal(1.0, 1.2, 900).astype(int) + 1, 400)
    write_folder(tmp_path / "documents", Document, [document(at, int(size)) for at, size in enumerate(sizes)])
    plan = AugmentPlan(("local/reverse", "self_qa"), samples=1, temperature=0.7, seed=0)
    jobs = jobs_of(tmp_path / "documents", tmp_path / "out", plan)
    exact = cost(jobs, tmp_path / "out")
    monkeypatch.setattr("augment_service.plan.EXACT_DOCUMENTS", 10)
    monkeypatch.setattr("augment_service.plan.SAMPLE_DOCUMENTS", 200)
    sampled = cost(jobs, tmp_path / "out")
    assert not sampled.is_exact and sampled.sampled <= 200 and sampled.documents == 900
    for method, one in sampled.methods.items():
        true = exact.methods[method]
        assert abs(one.prompt_tokens - true.prompt_tokens) <= 2 * one.margin * true.prompt_tokens  # four errors
        assert abs(one.prompts / true.prompts - 1) < 0.05
        assert abs(one.cached_tokens / true.cached_tokens - 1) < 0.1
    assert 0 < sampled.total.margin < 0.05


def test_documents_that_exceed_the_window_are_counted(folder: Path, tmp_path: Path) -> None:
    rows = [document(0, 2), document(1, 90), Document("empty", " ", "w")]
    write_folder(tmp_path / "long", Document, rows)
    tiny = str(ROOT / "models/tiny")
    for long, cut, skipped in (("cut", 1, 0), ("skip", 0, 1)):
        plan = dataclasses.replace(PLAN, methods=("self_qa",), long_documents=long)  # type: ignore[arg-type]
        jobs = jobs_of(tmp_path / "long", tmp_path / long, plan, window=640, tokenizer=tiny)
        one = cost(jobs, tmp_path / long).methods["self_qa/ask"]
        assert (one.cut, one.skipped, one.documents) == (cut, skipped, 2 - skipped)


def test_a_shared_context_is_not_read_for_each_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Document(f"d{at}", "frorp are more graceful than blolp. noff are more stubborn than mooks", "w")
        for at in range(200)
    ]
    write_folder(tmp_path / "documents", Document, rows)
    tiny, read = ROOT / "models/tiny", [0]

    class Counting:
        def __init__(self) -> None:
            self._inner = load_tokenizer(tiny)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __call__(self, texts: Any, **options: Any) -> Any:
            read[0] += sum(map(len, [texts] if isinstance(texts, str) else texts))
            return self._inner(texts, **options)

    monkeypatch.setattr("augment_service.plan.load_once", lambda _: Counting())
    book = load_book(tiny)
    plan = AugmentPlan(("global",), samples=1, temperature=0.0, seed=0)
    jobs = plan_augmentation(
        tmp_path / "documents", tmp_path / "out", book, plan, model="m", context=ALL, tokenizer=str(tiny)
    )
    found = cost(jobs, tmp_path / "out").total
    corpus = sum(len(row.text) + 1 for row in rows)
    assert found.prompts == 400 and found.cached_tokens > 0.8 * found.prompt_tokens
    assert read[0] < 400 * corpus / 20  # the last characters of a context are read again with each prompt


def test_measured_answers_replace_the_most_that_there_can_be(folder: Path, tmp_path: Path) -> None:
    few = first_rows(row_ranges(folder, rows_per_unit=128), 12)
    do(jobs_of(folder, tmp_path / "out", ranges=few))
    found = cost(jobs_of(folder, tmp_path / "out"), tmp_path / "out")
    one = found.methods["local/reverse"]
    rows = count_methods(list((tmp_path / "out" / PARTS).glob("*.arrow")))["local/reverse"]
    assert one.new_tokens == round(one.prompts * rows.written / rows.prompts) < one.max_new_tokens
    assert measure_answers(tmp_path / "out" / PARTS, ENGLISH.select(["local"]), {"another model"}) == {}


# ---- the prefix cache


def row(*tokens: int, head: tuple[int, ...] = ()) -> TokenRow:
    return TokenRow(head, tokens)


def test_blocks_are_cached_with_all_that_precedes_them() -> None:
    cache = PrefixCache(4, 100)
    assert cache.read(row(*range(10))) == 0
    assert cache.read(row(*range(10))) == 8
    assert cache.read(row(*range(8))) == 4  # the last token is computed
    assert cache.read(row(9, *range(1, 10))) == 0
    assert cache.read(row(*range(4), 9, 9, 9, 9, 8)) == 4


def test_a_shared_beginning_is_as_its_tokens() -> None:
    cache, head = PrefixCache(4, 100), (1, 2, 3, 4, 5, 6)
    assert cache.read(row(7, 8, 9, head=head)) == 0
    assert cache.read(row(1, 2, 3, 4, 5, 6, 7, 8, 9)) == 8
    long = tuple(range(1000))
    assert PrefixCache(4, 1000).read(row(1, head=long)) == 0
    cache = PrefixCache(4, 1000)
    assert [cache.read(row(at, head=long)) for at in range(3)] == [0, 1000, 1000]
    assert cache.read(row(0, head=tuple(range(1000)))) == 1000  # equal, but not the same


def test_the_oldest_blocks_go_first() -> None:
    cache = PrefixCache(2, 4)
    cache.read(row(1, 1, 2, 2, 0))
    cache.read(row(3, 3, 4, 4, 0))
    assert cache.read(row(1, 1, 2, 2, 0)) == 4
    cache.read(row(5, 5, 6, 6, 0))
    assert cache.read(row(3, 3, 4, 4, 0)) == 0


# ---- estimates


@given(
    st.lists(st.integers(1, 1000), min_size=30, max_size=80),
    st.floats(0, 5, allow_subnormal=False),
    st.floats(0, 5, allow_subnormal=False),
)
def test_what_is_constant_or_grows_with_the_size_is_estimated_exactly(
    sizes: list[int], per_document: float, per_byte: float
) -> None:
    all_sizes = np.array(sizes, dtype=float)
    strata = draw_sample(all_sizes, 16, seed=1)
    assert sum(one.num_members for one in strata) == len(sizes)
    places = np.concatenate([one.chosen for one in strata])
    assert len(set(places.tolist())) == len(places)
    values = per_document + per_byte * all_sizes[:, None]
    totals, errors = estimate_totals(strata, all_sizes[places], values[places])
    if all(len(one.chosen) > 2 or len(one.chosen) == one.num_members for one in strata):
        assert totals[0] == pytest.approx(values.sum(), abs=1e-6)
        assert errors[0] == pytest.approx(0, abs=1e-5 * max(values.sum(), 1))


def test_all_documents_are_no_sample() -> None:
    sizes = np.array([5.0, 1.0, 9.0])
    (one,) = draw_sample(sizes, 3, seed=0)
    assert one.chosen.tolist() == [0, 1, 2]
    totals, errors = estimate_totals([one], sizes, np.array([[1.0], [7.0], [2.0]]))
    assert (totals[0], errors[0]) == (10, 0)


# ---- some of the documents


def ids(folder: Path) -> list[str]:
    return [one.doc_id for one in read_folder(folder, Document)]


def test_a_limit_takes_the_first_documents(folder: Path) -> None:
    ranges = row_ranges(folder, rows_per_unit=16)
    assert [(one.start, one.stop) for one in first_rows(ranges, 20)] == [(0, 16), (16, 20)]
    assert first_rows(ranges, 1000) == first_rows(ranges, None) == ranges


def test_a_larger_choice_holds_a_smaller_one(folder: Path, tmp_path: Path) -> None:
    ranges, out = row_ranges(folder, rows_per_unit=16), tmp_path / "out"
    few, more = (ids(choose_few(folder, ranges, count, out, seed=3)) for count in (4, 9))
    assert set(few) < set(more) and len(more) == 9
    assert few == sorted(few, key=lambda name: int(name[1:]))  # in the order of the corpus
    assert len(ids(choose_few(folder, ranges, 1000, out, seed=3))) == 60
    assert ids(choose_few(folder, ranges, 4, out, seed=4)) != few


def test_a_budget_is_spent_on_whole_documents(folder: Path, tmp_path: Path) -> None:
    ranges, out = row_ranges(folder, rows_per_unit=16), tmp_path / "out"
    plan = dataclasses.replace(PLAN, methods=("local",))
    jobs = jobs_of(folder, out, plan)
    most = sum(template.max_tokens for template in ENGLISH.select(["local"])) * plan.samples  # of a sentence

    def chosen(budget: int, **expected: float) -> Path:
        return choose_within(folder, ranges, jobs, budget, out, seed=0, expected=expected)

    sentences = {one.doc_id: one.text.count(".") for one in read_folder(folder, Document)}
    some, more = chosen(40 * most), chosen(80 * most)
    assert set(ids(some)) < set(ids(more))
    assert 34 <= sum(sentences[name] for name in ids(some)) <= 40
    with pytest.raises(InputError, match="not enough for one document"):
        chosen(most - 1)
    # What was chosen stays chosen, whatever answers turn out to be like.
    shorter = choose_within(
        folder, ranges, jobs, 40 * most, out, seed=0, expected={"local/reverse": 1.0, "local/rephrase": 1.0}
    )
    assert shorter == some


@pytest.mark.parametrize("how", ["limit", "few"])
def test_a_later_run_asks_only_what_is_missing(folder: Path, tmp_path: Path, how: str, asked: list[str]) -> None:
    out, ranges = tmp_path / "out", row_ranges(folder, rows_per_unit=128)
    if how == "few":
        ranges = row_ranges(choose_few(folder, ranges, 7, out, seed=0), rows_per_unit=128)
    else:
        ranges = first_rows(ranges, 7)
    some = jobs_of(folder, out, ranges=ranges)
    do(some)
    first = set(asked)
    seal_augmentations(folder, out, some)
    before = {row.augmentation_id: row.text for row in read_folder(out / AUGMENTATIONS, Augmentation)}
    asked.clear()
    whole = jobs_of(folder, out)
    do(whole)
    assert first and first.isdisjoint(asked)
    seal_augmentations(folder, out, whole)
    after = {row.augmentation_id: row.text for row in read_folder(out / AUGMENTATIONS, Augmentation)}
    assert before.items() < after.items()
    do(jobs_of(folder, tmp_path / "alone"))
    alone = [name for job in jobs_of(folder, tmp_path / "alone") for table in job.tables() for name in _ids(table)]
    assert sorted(after) == sorted(alone)


def _ids(table: pa.Table) -> list[str]:
    return table["augmentation_id"].to_pylist()


def test_a_task_can_ask_a_few_prompts_of_each_document(folder: Path, tmp_path: Path, asked: list[str]) -> None:
    job = jobs_of(folder, tmp_path / "out", dataclasses.replace(PLAN, methods=("local/reverse",)))[0]
    task = job.task
    assert isinstance(task, AugmentTask)
    few = dataclasses.replace(task, most=3)
    assert few.key != task.key
    one = document(1, 9)
    ((_, all_asked),), ((_, some),) = (list(of.stages(one, lambda _: ())) for of in (task, few))
    assert len(all_asked) == 18 and len(some) == 3
    assert {prompt.prompt_id for prompt, _ in some} < {prompt.prompt_id for prompt, _ in all_asked}


# ---- where a row comes from


@pytest.fixture
def written(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    jobs = jobs_of(folder, out)
    note_origin(out, folder, jobs, "a model")
    do(jobs)
    seal_augmentations(folder, out, jobs)
    return out


def test_every_prompt_can_be_rebuilt(written: Path) -> None:
    reader = open_sources(written)
    methods = set()
    for row in list(read_folder(written / AUGMENTATIONS, Augmentation))[::17]:
        prompt = rebuild_prompt(written, row, reader.read(row.sources[0]))
        assert prompt.is_exact and not prompt.missing, row
        methods.add(row.method)
    assert {method.partition("/")[0] for method in methods} == set(PLAN.methods)


def test_a_prompt_of_other_documents_is_not_taken_for_the_one_that_was_asked(written: Path) -> None:
    row = next(row for row in read_folder(written / AUGMENTATIONS, Augmentation) if row.method == "self_qa/ask")
    other = dataclasses.replace(open_sources(written).read(row.sources[0]), text="Something else.")
    assert not rebuild_prompt(written, row, other).is_exact
    (written / "templates" / f"{row.template}.json").unlink()
    assert "template" in rebuild_prompt(written, row, other).missing


def test_rows_are_found_by_the_beginning_of_their_id_and_by_their_document(written: Path) -> None:
    rows = list(read_folder(written / AUGMENTATIONS, Augmentation))
    assert find_row(written, rows[5].augmentation_id[:20]) == rows[5] or rows[5].support != rows[5].support
    assert find_row(written / AUGMENTATIONS, rows[5].augmentation_id).text == rows[5].text
    with pytest.raises(InputError, match="rows begin with"):
        find_row(written, "")
    with pytest.raises(InputError, match="no row"):
        find_row(written, "xyz")
    found = rows_of_document(written, "d6")
    assert {row.augmentation_id for row in found} == {row.augmentation_id for row in rows if row.sources[0] == "d6"}
    with pytest.raises(InputError, match="no inference"):
        rows_of_document(written, "d600")


def test_how_often_a_row_was_scheduled(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    rows = [
        Augmentation(f"a{at}", "w0", "local/reverse", ("d0",), "", f"w{at} w{at + 1} w2", "", verdict, 0.0, "stop", "",
                     "", "", 0.0, 0)
        for at, verdict in enumerate(["kept", "repeated", "kept"])
    ]  # fmt: skip
    write_folder(tmp_path / "wrote", Augmentation, rows)
    sources = (TextSource(str(world / "documents")), TextSource(str(tmp_path / "wrote"), verdict_kept_only=True))
    out = tmp_path / "runs" / "tuned"
    run = make_run(world, out, sources=sources, num_steps=0, num_epochs=3.0)
    write_json(out / "checkpoint.json", {"key": key_of(run), "run": dataclasses.asdict(run)})
    (found,) = find_checkpoints(tmp_path / "runs")
    assert count_scheduled(found, ["a0", "a1", "a2", "d3", "none"]) == {"a0": 3, "a2": 3, "d3": 3}
    write_json(out / "checkpoint.json", {"key": "other", "run": dataclasses.asdict(run)})
    with pytest.raises(InputError, match="have changed"):
        count_scheduled(found, ["a0"])
    write_json(out / "checkpoint.json", {"key": key_of(run)})
    with pytest.raises(InputError, match="did not record"):
        count_scheduled(found, ["a0"])


# ---- what is printed


def printed(show: Any, *args: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(*args, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_markup_in_texts_is_never_interpreted(written: Path) -> None:
    row = dataclasses.replace(next(iter(read_folder(written / AUGMENTATIONS, Augmentation))), text="[red]x[/red]")
    prompt = AskedPrompt(before="<|user|>", context="[bold]c[/bold] " * 100, text="[link=a]b[/link]")
    text = printed(show_preview, {"local/reverse": [(prompt, "[/]\x1b[31m", [row])]})
    for shown in ("[red]x[/red]", "[link=a]b[/link]", "[/]\\x1b[31m", "1,020 characters", f"[{row.verdict}]"):
        assert shown in text


def test_tables_fit_into_their_width(written: Path, folder: Path) -> None:
    found = cost(jobs_of(folder, written / "other"), written / "other")
    big = {name: dataclasses.replace(one, prompts=10**9, prompt_tokens=10**12, new_tokens=5 * 10**9, bytes=10**13)
           for name, one in found.methods.items()}  # fmt: skip
    large = dataclasses.replace(found, methods=big)
    text = printed(lambda console: show_plan(large, [], None, console), width=80)
    assert all(method in text for method in found.methods) and max(map(len, text.splitlines()[:8])) <= 80
    text = printed(lambda console: show_methods(count_methods([*(written / AUGMENTATIONS).glob("*.arrow")]), console))
    assert max(map(len, text.splitlines()[:8])) <= 100


def test_long_waits_are_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    console = Console(file=io.StringIO())
    with waiting(console, "reading"):
        while "reading: 0 s" not in console.file.getvalue():  # type: ignore[attr-defined]
            pass


def test_time_is_divided_among_the_units_that_are_at_work() -> None:
    def receipt(unit: str, seconds: float) -> ShardReceipt:
        return ShardReceipt(unit, "", 1, seconds, "")

    found = _seconds_by_job(
        [(10.0, receipt("a 1/2", 10.0)), (10.0, receipt("w b", 4.0)), (12.0, receipt("a 2/2", 2.0))]
    )
    assert found == {"a": 6 + 2 + 2, "w b": 2}
    assert [job_of(name) for name in ("a 1/2", "w/1 b", "c")] == ["a", "w/1 b", "c"]


# ---- the commands


BAD = {
    "preview of nothing": "--preview 0",
    "plan and preview": "--plan --preview 2",
    "measurement of no plan": "--measure",
    "limit of nothing": "--limit 0",
    "too small a budget": "--budget-tokens 3",
    "distributions in a plan": "--plan --teacher-top-k 3",
    "chat book without a chat template": "--prompts english-chat",
    "family that the book lacks": "--methods focal",
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_flags_are_one_message(
    folder: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["augment", "--documents", str(folder), "--model", "models/tiny", "--out", str(tmp_path / "new")]
    assert main([*words, *shlex.split(BAD[case])]) == 2
    message = capsys.readouterr().err
    assert message.startswith("entail: ") and "where:" in message and "hint:" in message
    assert not list((tmp_path / "new").glob("augmentations"))


def test_an_empty_corpus_has_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "none", Document, [])
    words = ["augment", "--documents", str(tmp_path / "none"), "--model", str(ROOT / "models/tiny")]
    assert main([*words, "--plan", "--out", str(tmp_path / "out")]) == 2
    assert "no documents" in capsys.readouterr().err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A generated set, and its augmentation by the embedded model in an engine, planned and previewed before."""
    root = tmp_path_factory.mktemp("planned")
    made = [
        "data",
        "make",
        "reversals",
        "--lexicon",
        "tiny",
        "--worlds",
        "1",
        "--facts",
        "8",
        "--out",
        str(root / "set"),
    ]
    assert main(made) == 0
    yield root / "set", root / "out"


def augment(made: tuple[Path, Path], *words: str) -> int:
    documents, out = map(str, made)
    return main(["augment", "--documents", documents, "--model", str(ROOT / "models/tiny"), "--out", out, *words])


def test_a_plan_is_what_the_run_then_takes(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = made[1]
    assert augment(made, "--plan") == 0
    assert not (out / AUGMENTATIONS).exists() and not list((out / PARTS).glob("*.arrow"))
    plan = json.loads((out / "plan.json").read_text())
    assert "global/deduce" in capsys.readouterr().out
    assert augment(made) == 0
    shown = capsys.readouterr().out
    assert "tokens in" in shown
    rows = count_methods([*(out / AUGMENTATIONS).glob("*.arrow")])
    for method, one in rows.items():
        found = plan["methods"][method]
        assert (found["prompts"], found["prompt_tokens"]) == (one.prompts, one.read)
        assert one.written <= found["max_new_tokens"]
    hit_rate = plan["cached_tokens"] / plan["prompt_tokens"]
    assert abs(float(re.findall(r"cache (\d+)%", shown)[-1]) / 100 - hit_rate) < 0.15  # engines have a cache each
    size = sum(path.stat().st_size for path in (out / AUGMENTATIONS).glob("*.arrow"))
    assert 0.5 < plan["bytes"] / (2 * size) < 2
    assert {"prompts", "prompt_tokens", "cached_tokens", "max_new_tokens", "bytes"} <= set(plan)


def test_a_preview_shows_prompts_answers_and_rows_and_seals_nothing(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake, out = (made[0], tmp_path / "out"), tmp_path / "out"
    options = ("--engine", "fake", "--engines", "1", "--methods", "local/reverse", "--samples", "4")
    assert augment(fake, *options, "--preview", "3") == 0
    shown = capsys.readouterr().out
    assert shown.count("reverse :") == 2 and shown.count("answer\n") == 2
    assert not (out / AUGMENTATIONS).exists()
    assert augment(fake, *options, "--plan", "--measure") == 0
    shown, plan = capsys.readouterr().out, json.loads((out / "plan.json").read_text())
    assert "core-hours" in shown and plan["seconds"] is not None and plan["answered"] + plan["prompts"] == 32
    assert augment(fake, *options, "--limit", "5") == 0
    assert len(list(read_folder(out / AUGMENTATIONS, Augmentation))) == 20
    assert augment(fake, *options) == 0
    assert len(list(read_folder(out / AUGMENTATIONS, Augmentation))) == 32


def test_more_is_written_about_what_is_still_wrong(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [row.doc_id for row in read_folder(made[0] / "documents", Document)]
    asked = [("dev", names[3:5]), ("reversal", names[4:5]), ("test", names[:3])]
    mistakes = {"s": {"condition": "tuned", "questions": [{"split": s, "requires": ids} for s, ids in asked]}}
    study, out = tmp_path / "study", tmp_path / "out"
    write_json(study / "report" / "report.json", {"mistakes": mistakes})
    fake = ("--engine", "fake", "--methods", "local/reverse", "--about", str(study))
    assert augment((made[0], out), *fake) == 0
    assert "2 documents of 2 questions" in capsys.readouterr().out
    rows = list(read_folder(out / AUGMENTATIONS, Augmentation))
    assert {row.sources[0] for row in rows} == set(names[3:5])
    write_json(study / "report" / "report.json", {"mistakes": {"s": {"questions": mistakes["s"]["questions"][2:]}}})
    assert augment((made[0], out), *fake) == 2  # the test alone
    assert "no test" in capsys.readouterr().err
    write_json(study / "report" / "report.json", {"mistakes": {"s": {"questions": [{"split": "", "requires": ["x"]}]}}})
    assert augment((made[0], out), *fake) == 2
    assert "none of the 1 documents" in capsys.readouterr().err
    assert augment((made[0], out), *fake[:-1], str(tmp_path / "none")) == 2
    assert "no finished report" in capsys.readouterr().err


def test_inspecting_an_augmentation(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = made[1]
    if not (out / AUGMENTATIONS).exists():
        assert augment(made, "--engine", "fake") == 0
    row = next(iter(read_folder(out / AUGMENTATIONS, Augmentation)))
    capsys.readouterr()
    assert main(["data", "inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "tokens in" in shown and "Augmentation, complete" in shown and "parts" not in shown
    assert main(["data", "inspect", str(out), "--row", row.augmentation_id[:16]]) == 0
    shown = capsys.readouterr().out
    assert row.sentence in shown and "it is the prompt that was asked" in shown and "models/tiny" in shown
    assert main(["data", "inspect", str(out), "--document", row.sources[0]]) == 0
    assert row.augmentation_id[:12] in capsys.readouterr().out
    assert main(["data", "inspect", str(out), "--row", "xyz"]) == 2
    assert main(["data", "inspect", str(out), "--runs", str(out)]) == 2
