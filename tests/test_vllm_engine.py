"""The vLLM engine on a tiny random model, against plain transformers and against its own slow twin."""

import contextvars
import json
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, VOCABULARY, WINDOW, WORDS, make_model, plain_scores
from transformers import AutoModelForCausalLM, AutoTokenizer

from augment_service import tokens as tokens_module
from augment_service.engines.protocol import EngineSpec
from augment_service.engines.start import start_engine
from augment_service.engines.vllm import VllmEngine, gumbel_noise, sampling, tries
from augment_service.engines.vllm import stream as streaming
from augment_service.engines.vllm.checkpoints import read_shape
from augment_service.engines.vllm.llm import EngineHost, engine_settings
from augment_service.engines.vllm.sampling import RowProcessor
from augment_service.engines.vllm.strategies import STRATEGIES, Query, Strategy, choose_strategy
from augment_service.engines.vllm.stream import Request
from augment_service.engines.vllm.tries import Branch, Trie
from augment_service.engines.window import fit_window
from augment_service.tokens import TextReader, TokenRow
from cluster import cancellation
from cluster.cancellation import CancelledCallError
from data.errors import InputError, ResumableError
from data.records import DistillationExample, Distribution, Generation, Prompt, Refusal, Score, ScoreItem
from data.seeds import derive_seed

GOLDEN_NOISE = [0.179120045381, -0.314491095701, -1.264283326401]  # key 1, by splitmix64 in plain Python
OPTIONS = ("w1", "w2 w3", "w4 w5 w6", "w7 \n w8 w9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "a", 0, tied=True)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[VllmEngine]:
    engine = start_engine(EngineSpec(kind="vllm", model=str(folder), kv_cache_gib=0.1))
    assert isinstance(engine, VllmEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def items() -> list[ScoreItem]:
    """Three questions after one long context and one without it; options of 1 to 4 tokens."""
    asked = [ScoreItem(f"i{i}", CONTEXT, f" w{i} w{i + 1}", OPTIONS) for i in range(3)]
    return [*asked, ScoreItem("alone", "", "w5 w6", OPTIONS)]


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [Prompt(f"p{i}", "local", "d", CONTEXT, f" w{i} w{3 * i}", 16, 0.9, i, "\n") for i in range(24)]


def assert_scores(engine: VllmEngine, folder: Path, items: Sequence[ScoreItem]) -> None:
    for item, score, wanted in zip(items, engine.score(items), plain_scores(folder, items), strict=True):
        assert isinstance(score, Score), score
        assert score.item_id == item.item_id
        assert score.token_log_likelihoods == pytest.approx([v for tokens, _ in wanted for v in tokens], abs=1e-4)
        assert score.log_likelihoods == pytest.approx([sum(tokens) for tokens, _ in wanted], abs=1e-4)
        assert score.num_tokens == tuple(len(tokens) for tokens, _ in wanted)
        assert score.greedy == tuple(greedy for _, greedy in wanted)


def spent(engine: VllmEngine, items: Sequence[ScoreItem]) -> dict[str, float]:
    """What scoring has cost, by the engine's own counts."""
    before = engine.stats()
    engine.score(items)
    return {name: value - before[name] for name, value in engine.stats().items()}


def random_items(seed: int, count: int) -> list[ScoreItem]:
    """Contexts of all lengths; options that share tokens, repeat, begin another, or fill the window."""
    draw = Random(seed)
    items = []
    for number in range(count):
        context = " ".join(CONTEXT.split()[: draw.choice((0, 1, 31, 32, 33, 95, 200))])
        words = [draw.choice(WORDS[:4]), *draw.choices([*WORDS[:4], "\n"], k=4)]
        options = [" ".join(words[: draw.randint(1, 5)]) for _ in range(draw.randint(1, 3))]
        options += [" ".join(draw.choices(WORDS, k=draw.choice((1, 1, 2, 4, 50)))) for _ in range(draw.randint(1, 3))]
        draw.shuffle(options)
        items.append(
            ScoreItem(f"r{number}", context, f" {draw.choice(WORDS)}", tuple(options), draw.choice(("", "w1")))
        )
    return items


def test_scores_are_those_of_a_plain_forward_pass(engine: VllmEngine, folder: Path, items: list[ScoreItem]) -> None:
    assert_scores(engine, folder, items)
    assert_scores(engine, folder, random_items(1, 20))


def test_a_context_is_computed_once(engine: VllmEngine) -> None:
    context = " ".join(Random(2).choices(WORDS, k=200))
    items = [ScoreItem(f"i{i}", context, f" w{i} w{i + 1}", ("w1 w2", "w3 w4")) for i in range(10)]
    cost = spent(engine, items)
    assert cost["cached_tokens"] == 19 * 192  # the full blocks, for all of the twenty requests but the first
    assert cost["computed_tokens"] == 20 * (202 + 1) - 19 * 192  # and the last token of an option is never read
    assert cost["scored_tokens"] == 40


def test_a_shared_beginning_is_hashed_once(engine: VllmEngine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same blocks in the cache as by vLLM's own hashes."""
    monkeypatch.setattr(tokens_module, "TAIL", 16)
    monkeypatch.setattr(streaming, "MIN_HEAD", 32)
    hashed: list[int] = []
    own = engine._host._thread._hashes._hasher
    monkeypatch.setattr(
        engine._host._thread._hashes, "_hasher", lambda row: hashed.append(len(found := own(row))) or found
    )
    context = " ".join(Random(5).choices(WORDS, k=200))
    items = [ScoreItem(f"i{i}", context, f" w{i} w{i + 1}", ("w1 w2", "w3 w4")) for i in range(10)]
    monkeypatch.setattr(streaming, "MIN_HEAD", 10**6)
    assert spent(engine, items)["cached_tokens"] == 19 * 192
    monkeypatch.setattr(streaming, "MIN_HEAD", 32)
    hashed.clear()
    assert spent(engine, items)["cached_tokens"] == 20 * 192  # the blocks of before are found
    assert sum(hashed) == 6 + 19 * (6 - 5)  # six full blocks, five of them in the part that is tokenized once
    assert_scores(engine, folder, items)


def test_distributions_are_those_of_a_plain_forward_pass(
    engine: VllmEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the chosen strategy and by the reference; the context is computed once, and the end token predicts itself."""
    long = " ".join(Random(9).choices(WORDS, k=250))
    context = " ".join(Random(10).choices(WORDS, k=200))
    examples = [DistillationExample(f"t{i}", context, f" w{i}", " ".join(WORDS[i : i + 2 + i]), 5) for i in range(6)]
    before = engine.stats()
    rows = [
        row
        for row in engine.distill([*examples, DistillationExample("long", long, "", long, 5)])
        if isinstance(row, Distribution)
    ]
    cost = {name: value - before[name] for name, value in engine.stats().items()}
    assert cost["cached_tokens"] == 5 * 192
    assert cost["scored_tokens"] == sum(1 + i for i in range(6))
    assert [row.text_id for row in rows] == [example.text_id for example in examples]
    for example, row in zip(examples, rows, strict=True):
        wanted = plain_expectations(folder, example)
        num_places = len(row.token_ids) - 2  # the first token is nobody's, the last one is the end
        ids, values = (torch.tensor(of).view(-1, 5) for of in (row.top_ids, row.top_log_probs))
        assert torch.equal(ids[:num_places], wanted.indices)
        assert values[:num_places].tolist() == pytest.approx(wanted.values.numpy(), abs=1e-4)
        assert (row.token_ids[-1], ids[-1, 0], values[-1].exp().tolist()) == (1, 1, [1.0, 0.0, 0.0, 0.0, 0.0])
        assert len(set(ids[-1].tolist())) == 5
    monkeypatch.setattr(engine, "strategy", choose_strategy("whole"))
    for fast, slow in zip(rows, engine.distill(examples), strict=True):
        assert isinstance(slow, Distribution)
        assert replace(slow, top_log_probs=()) == replace(fast, top_log_probs=())
        assert slow.top_log_probs == pytest.approx(fast.top_log_probs, abs=1e-5)


def plain_expectations(folder: Path, example: DistillationExample) -> torch.return_types.topk:
    """The likeliest tokens in place of each of a text's tokens but the first, by transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    text = tokenizer(example.text)["input_ids"]
    ids = tokenizer(example.context + example.prompt)["input_ids"] + text
    with torch.inference_mode():
        values = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return values[-len(text) : -1].topk(example.num_top)


@pytest.mark.parametrize("name", [strategy.name for strategy in STRATEGIES if not strategy().obstacle()])
def test_all_strategies_agree(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert engine.strategy.name == "forced"
    items = random_items(7, 40)
    fast = engine.score(items)
    monkeypatch.setattr(engine, "strategy", choose_strategy(name))
    for one, other in zip(fast, engine.score(items), strict=True):
        assert isinstance(one, Score)
        assert isinstance(other, Score)
        assert one.token_log_likelihoods == pytest.approx(other.token_log_likelihoods, abs=1e-4)
        assert one.unconditional == pytest.approx(other.unconditional, abs=1e-4)
        assert (one.num_tokens, one.greedy) == (other.num_tokens, other.greedy)


def test_a_strategy_that_is_not_available_is_refused_with_the_reason(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'replay': .*not available here: .*CUDA"):
        start_engine(EngineSpec(kind="vllm", model=str(folder), scoring="replay"))
    with pytest.raises(InputError, match="no such strategy") as raised:
        choose_strategy("guessing")
    assert raised.value.hint == "one of auto, forced, stepwise, whole"


def test_a_strategy_is_unavailable_where_sampling_parameters_lack_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    forced = next(strategy for strategy in STRATEGIES if strategy.name == "forced")
    monkeypatch.setattr(forced, "needs", ("extra_args", "telepathy"))
    assert choose_strategy("auto").name == "stepwise"
    with pytest.raises(InputError, match="has no telepathy"):
        choose_strategy("forced")


def test_options_that_share_tokens_share_requests(engine: VllmEngine) -> None:
    def num_read(*options: str) -> float:
        return spent(engine, [ScoreItem("i", "", "w1 w2 w3", options)])["prompt_tokens"]

    assert num_read("w1", "w2", "w3", "w4") == 3
    assert num_read("w1", "w1", "w1 w2", "w1 w2 w3") == 3
    assert num_read("w1 w2 w3", "w1 w2 w4", "w1 w2 w5") == 3
    assert num_read("w1 w2", "w3 w4") == 6


def test_more_options_than_vllm_judges_at_once(
    engine: VllmEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "MAX_CHILDREN", 3)
    assert_scores(engine, folder, [ScoreItem("i", "", "w9", tuple(WORDS[:10]))])


def test_no_more_requests_are_in_flight_than_the_memory_allows(
    engine: VllmEngine, folder: Path, items: list[ScoreItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MAX_TOKENS", 600)  # three contexts of 200 tokens
    most, step = 0, engine._host._llm.llm_engine.step

    def watched() -> list[Any]:
        nonlocal most
        most = max(most, engine._host._llm.llm_engine.get_num_unfinished_requests())
        return step()

    monkeypatch.setattr(engine._host._llm.llm_engine, "step", watched)
    assert_scores(engine, folder, items)
    assert 2 <= most <= 6


def test_a_slow_row_holds_nobody(engine: VllmEngine) -> None:
    """Neither the other rows of its call nor those of other threads."""
    slow = Prompt("slow", "local", "d", "", "w1 w2", 200, 0.9, 1, "")
    quick = [Prompt(f"q{i}", "local", "d", "", f"w3 w{i}", 4, 0.9, i, "") for i in range(40)]
    seen: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(engine.generate, [slow, *quick[:20]], lambda _, row: seen.append(row.prompt_id))
        second = threads.submit(engine.generate, quick[20:], lambda _, row: seen.append(row.prompt_id))
        together = first.result() + second.result()
    assert seen[-1] == "slow" and len(seen) == 41
    assert together == [*engine.generate([slow, *quick[:20]]), *engine.generate(quick[20:])]


def test_a_text_is_streamed_as_it_is_written(engine: VllmEngine) -> None:
    prompt = Prompt("p", "local", "d", CONTEXT, " w3", 12, 0.9, 5, "")
    *parts, whole = engine.stream(prompt)
    assert isinstance(whole, Generation)
    assert [whole] == engine.generate([prompt])
    assert "".join(map(str, parts)) == whole.text and len(parts) > 6
    (refusal,) = engine.stream(replace(prompt, max_tokens=10_000))
    assert isinstance(refusal, Refusal)


def test_who_stops_early_takes_the_requests_along(engine: VllmEngine) -> None:
    long = Prompt("p", "local", "d", "", "w1 w2", 200, 0.9, 1, "")
    stream = engine.stream(long)
    next(stream)
    stream.close()
    with pytest.raises(ZeroDivisionError):  # an error of whoever takes the answers
        engine.generate(
            [replace(long, max_tokens=2), *[replace(long, seed=i) for i in range(9)]], lambda at, _: 1 // at
        )
    assert not engine._host._llm.llm_engine.has_unfinished_requests()
    context, event = contextvars.copy_context(), threading.Event()
    context.run(cancellation._CANCELLED.set, event)
    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(context.run, engine.generate, [replace(long, seed=i) for i in range(200)])
        event.set()
        with pytest.raises(CancelledCallError):
            work.result()
    assert not engine._host._llm.llm_engine.has_unfinished_requests()


def test_a_long_continuation_is_read_in_one_pass(engine: VllmEngine, folder: Path) -> None:
    """Where its tokens are in the cache already, they are written one by one: both are exact."""
    draw = Random(4)
    context, shared = (" ".join(draw.choices(WORDS, k=count)) for count in (100, 35))
    options = [" ".join(draw.choices(WORDS, k=40)) for _ in range(3)] + [f"{shared} w1 w2", f"{shared} w3"]
    item = ScoreItem("long", context, " w7", tuple(options))
    num_steps = 0
    step = engine._host._llm.llm_engine.step

    def counted() -> list[Any]:
        nonlocal num_steps
        num_steps += 1
        return step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._host._llm.llm_engine, "step", counted)
        (fresh,) = engine.score([item])
        steps_fresh, num_steps = num_steps, 0
        (again,) = engine.score([item])
    assert steps_fresh < 20 and num_steps > 30
    assert isinstance(fresh, Score) and isinstance(again, Score)
    assert fresh.token_log_likelihoods == pytest.approx(again.token_log_likelihoods, abs=1e-5)
    assert_scores(engine, folder, [item])


def test_the_likelihood_without_context_is_computed_once(engine: VllmEngine) -> None:
    items = [ScoreItem(f"i{i}", CONTEXT, f" w{i}", ("w1 w2", "w3"), unconditional="w5") for i in range(5)]
    alone = engine.score([ScoreItem("alone", "", "w5", ("w1 w2", "w3"))])[0]
    rows = engine.score(items)
    assert isinstance(alone, Score)
    assert all(isinstance(row, Score) for row in rows)
    assert [row.unconditional for row in rows] == [pytest.approx(alone.log_likelihoods, abs=1e-5)] * 5
    with_it, without = spent(engine, items), spent(engine, [replace(item, unconditional="") for item in items])
    assert with_it["prompt_tokens"] - without["prompt_tokens"] == 2  # two short requests, for all items together
    assert with_it["scored_tokens"] - without["scored_tokens"] == 3


@pytest.mark.parametrize("strategy", [strategy for strategy in STRATEGIES if not strategy().obstacle()])
def test_a_cached_position_is_never_taken_for_a_score(strategy: type[Strategy]) -> None:
    trie = Trie(TokenRow((), (5, 6, 7)))
    trie.add([8])
    request = Request(trie.prefix, None, Query(trie, Branch((), (1,))))  # type: ignore[arg-type]
    for num_cached in (3, 9, None):
        with pytest.raises(ResumableError, match="prefix cache"):
            strategy().read(request, SimpleNamespace(num_cached_tokens=num_cached))  # type: ignore[arg-type]
    assert trie.found == {}


def test_bad_items_are_refused_and_the_others_scored(engine: VllmEngine, items: list[ScoreItem]) -> None:
    good = items[0]
    bad = {
        "empty option": (replace(good, continuations=("w1", " ")), "empty", "empty continuation"),
        "no options": (replace(good, continuations=()), "empty", "empty continuation"),
        "nothing before": (replace(good, context="", prompt=""), "empty", "no token"),
        "too long": (replace(good, context=f"{CONTEXT} {CONTEXT}"), "window", "403 tokens are needed.*window has 256"),
        "too long alone": (replace(good, unconditional=f"{CONTEXT} {CONTEXT}"), "window", "401 tokens"),
        "unknown": (replace(good, continuations=("w1", "Berlin Paris")), "tokens", "does not know: Berlin, Paris$"),
        "unknown before": (replace(good, context="Rome"), "tokens", "does not know: Rome$"),
        "unknown alone": (replace(good, unconditional="Oslo"), "tokens", "does not know: Oslo$"),
    }
    mixed = [good, *(replace(item, item_id=name) for name, (item, _, _) in bad.items()), items[1]]
    rows = engine.score(mixed)
    assert [rows[0], rows[-1]] == engine.score([good, items[1]])
    for row, (name, (_, kind, what)) in zip(rows[1:-1], bad.items(), strict=True):
        assert isinstance(row, Refusal), name
        assert (row.item_id, row.kind) == (name, kind)
        assert re.search(what, row.what), row.what
        assert row.hint


def test_what_fills_the_window_is_scored_and_one_token_more_is_refused(engine: VllmEngine, folder: Path) -> None:
    full = ScoreItem("i", CONTEXT, " w1 w2", (" ".join(WORDS[: WINDOW - 202]),))
    assert_scores(engine, folder, [full])
    more = replace(full, continuations=(f"{full.continuations[0]} w1",))
    assert isinstance(engine.score([more])[0], Refusal)


def test_bad_prompts_are_refused_and_the_others_answered(engine: VllmEngine, prompts: list[Prompt]) -> None:
    good = prompts[0]
    bad = [
        (replace(good, context="", text=""), "empty"),
        (replace(good, max_tokens=0), "empty"),
        (replace(good, max_tokens=100), "window"),
        (replace(good, text=" Paris w1 London"), "tokens"),
    ]
    rows = engine.generate([good, *(prompt for prompt, _ in bad), prompts[1]])
    assert [rows[0], rows[-1]] == engine.generate(prompts[:2])
    assert [row.kind for row in rows[1:-1] if isinstance(row, Refusal)] == [kind for _, kind in bad]
    exactly = replace(good, max_tokens=WINDOW - 202, stop="")
    assert isinstance(engine.generate([exactly])[0], Generation)


def test_tokens_without_an_embedding_are_refused(
    engine: VllmEngine, items: list[ScoreItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if the tokenizer had more words than the model has embeddings
    monkeypatch.setattr(engine, "_reader", TextReader(engine._tokenizer, window=WINDOW, num_ids=100))
    bad, good = (replace(items[3], continuations=("w1", word)) for word in ("w97", "w96"))
    refused, score = engine.score([bad, good])
    assert isinstance(refused, Refusal)
    assert (refused.kind, refused.what) == ("tokens", "token id 100 is out of range: the model has 100 tokens")
    assert isinstance(score, Score)


def test_what_greedy_decoding_writes_is_scored_as_greedy(engine: VllmEngine, folder: Path) -> None:
    prompt = Prompt("p", "local", "d", CONTEXT, " w3", 5, 0.0, 1, "")
    written = engine.generate([prompt])[0]
    assert isinstance(written, Generation)
    item = ScoreItem("i", CONTEXT, " w3", (written.text.strip(), "w1"))
    assert written.num_tokens == 5
    score = engine.score([item])[0]
    assert isinstance(score, Score)
    assert score.greedy == (True, False)
    assert_scores(engine, folder, [item])
    assert engine.generate([replace(prompt, seed=2)])[0] == written


def test_the_end_of_the_text_can_be_what_is_most_likely(
    engine: VllmEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = TextReader(engine._tokenizer, window=WINDOW, split_special_tokens=False)
    monkeypatch.setattr(engine, "_reader", reader)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    end, words = VOCABULARY.index("<eos>"), range(3, len(VOCABULARY))
    with torch.inference_mode():
        starts = torch.cartesian_prod(torch.tensor(words[:20]), torch.tensor(words))
        found = starts[model(starts).logits[:, -1].argmax(-1) == end]
    items = [ScoreItem("i", "", f"{VOCABULARY[a]} {VOCABULARY[b]}", ("<eos>", "w1 w2")) for a, b in found[:5]]
    assert items
    assert_scores(engine, folder, items)
    scores = [score for score in engine.score(items) if isinstance(score, Score)]
    assert [score.greedy[0] for score in scores] == [True] * len(items)


def test_a_row_depends_neither_on_its_batch_nor_on_the_call(engine: VllmEngine, prompts: list[Prompt]) -> None:
    together = engine.generate(prompts)
    assert engine.generate(prompts) == together
    assert [engine.generate([prompt])[0] for prompt in prompts] == together
    assert engine.generate(prompts[::-1]) == together[::-1]
    assert [row.prompt_id for row in together if isinstance(row, Generation)] == [p.prompt_id for p in prompts]


def test_the_seed_decides_the_text(engine: VllmEngine, prompts: list[Prompt]) -> None:
    rows = engine.generate([replace(prompts[0], seed=seed) for seed in range(20)])
    assert len({row.text for row in rows if isinstance(row, Generation)}) > 15


def test_text_ends_before_the_stop(engine: VllmEngine, prompts: list[Prompt]) -> None:
    asked = [replace(prompt, seed=seed, max_tokens=40) for seed, prompt in enumerate(prompts)]
    rows = [row for row in engine.generate(asked) if isinstance(row, Generation)]
    assert len(rows) == len(asked)
    assert not any("\n" in row.text for row in rows)
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    assert all(row.num_tokens == 40 for row in rows if row.finish_reason == "length")
    word = rows[0].text.split()[2]
    cut = engine.generate([replace(prompts[0], seed=0, max_tokens=40, stop=word)])[0]
    assert isinstance(cut, Generation)
    assert word not in cut.text.split()
    assert rows[0].text.startswith(cut.text.rstrip())


def test_an_echo_covers_every_token(engine: VllmEngine, folder: Path) -> None:
    ids = list(range(3, 73))
    short, refused, whole = engine.echo([ids[:1], [5, len(VOCABULARY)], ids])
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        plain = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert isinstance(refused, Refusal)
    assert not isinstance(whole, Refusal)
    assert not isinstance(short, Refusal)
    assert whole.log_likelihoods == pytest.approx(plain[range(69), ids[1:]].tolist(), abs=1e-4)
    assert whole.best_tokens == tuple(plain.argmax(-1).tolist())
    assert whole.best_log_likelihoods == pytest.approx(plain.amax(-1).tolist(), abs=1e-4)
    assert (short.log_likelihoods, short.best_tokens) == ((), whole.best_tokens[:1])


def test_a_missing_model_ends_the_job(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError) as raised:
        start_engine(EngineSpec(kind="vllm", model=str(tmp_path / "none")))
    assert raised.value.where == str(tmp_path / "none" / "config.json")
    with pytest.raises(InputError, match=r"300 .* 256") as raised:
        start_engine(EngineSpec(kind="vllm", model=str(folder), window=300))
    assert raised.value.where == "engine setting window"


def test_a_small_cache_makes_the_window_smaller_and_the_estimate_agrees(folder: Path, engine: VllmEngine) -> None:
    """Case 27: a window of the model that the cache cannot hold is cut, not an error."""
    assert engine.window == fit_window(EngineSpec(kind="vllm", model=str(folder))).tokens == WINDOW
    bytes_per_token = _cache_bytes_per_token(folder)
    small = EngineSpec(kind="vllm", model=str(folder), kv_cache_gib=(WINDOW // 2 + 40) * bytes_per_token / 2**30)
    tokens, sentence = fit_window(small)
    assert tokens == WINDOW // 2 and str(WINDOW) in sentence
    engine_settings(small, 100, torch.float32)
    host = EngineHost(small, read_shape(folder), torch.float32, False, {})
    engine.close()
    try:
        host.start(str(folder))
        assert host.window == tokens
    finally:
        host.close()
        engine._host.start(str(folder))  # for the module's other tests


def _cache_bytes_per_token(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(config["num_hidden_layers"] * heads * size * 2 * 4)


def test_the_noise_is_gumbel_and_the_same_everywhere() -> None:
    noise = gumbel_noise(torch.arange(20_000), 3)
    chosen = (torch.tensor([0.6, 0.3, 0.1]).log() + noise).argmax(-1).bincount() / 20_000
    assert chosen.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert torch.equal(gumbel_noise(torch.tensor([7]), 500)[0, :3], noise[7])
    assert noise[1].tolist() == pytest.approx(GOLDEN_NOISE, abs=1e-9)


def test_rows_get_their_own_noise_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = RowProcessor(None, None, False)
    logits = torch.randn(8, 50)
    asked = {row: {"noise": (0.5 + row / 4, row)} for row in (1, 3, 2, 4, 7)} | {5: {"forced": [7]}, 0: {"forced": []}}
    for row, extra in asked.items():
        request = processor.new_req_logits_processor(SimpleNamespace(extra_args=extra))  # type: ignore[arg-type]
        assert request is not None
        processor.req_info[row] = partial(request, [])
    wanted = logits.clone()
    for row in (1, 3, 2, 4, 7):
        noise = gumbel_noise(torch.tensor([derive_seed(row, "token", 0)]), 50)[0]
        wanted[row] = (logits[row].double() / (0.5 + row / 4) + noise).float()
    wanted[5] = torch.where(torch.arange(50) == 7, 0.0, float("-inf"))
    for cells in (50, 100, 150, 10_000):  # rows of noise by one, two, three, all at once
        monkeypatch.setattr(sampling, "NOISE_CELLS", cells)
        assert torch.equal(processor.apply(logits.clone()), wanted)
    for row in (7, 5, 0):
        del processor.req_info[row]
    wanted[[7, 5]] = logits[[7, 5]]
    assert torch.equal(processor.apply(logits.clone()), wanted)  # rows 1, 3, 2, 4: side by side, out of order
