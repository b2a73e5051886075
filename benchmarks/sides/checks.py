"""Checks of the vLLM engine on this machine, and its speed. A process per engine, as engines have in the pipeline.

A check raises AssertionError with what is wrong, or returns its figures. Differences are nats of one token.
"""

import contextvars
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.vllm import VllmEngine
from augment_service.engines.vllm.strategies import STRATEGIES, choose_strategy
from augment_service.reference import Difference, Reference, compute_reference, difference
from benchmarks import roofline
from benchmarks.attempts import SKIPPED, Figures, attempt_all, result
from benchmarks.corpora import make_model
from benchmarks.side import serve
from benchmarks.sides.peak import PeakSide
from benchmarks.swap import make_checkpoints
from cluster.cancellation import CancelledCallError, cancellable
from data.records import CheckpointRef, Echo, Generation, Prompt, Score, ScoreItem
from data.store import read_shard
from data.weights import weights_fingerprint

KV_CACHE_GIB = 0.25
NUM_ROWS, ROW_TOKENS = 4, 256  # of the texts whose every token is compared with fp32
SWAP_LIMIT = Difference(1e-5, 1e-5)  # in float32, between weights that were swapped in and a cold start
LEAST_MOVED = 0.1  # by other weights, of some token's score; less, and they were not loaded
LEAST_EQUAL = 0.9  # of float32 texts that are written one by one and together: near ties, roundings decide
NUM_THREADS, NUM_TEXTS, TEXT_TOKENS, NUM_CANCELLED, CANCELLED_TOKENS = 4, 12, 24, 200, 400


@dataclass
class Subject:
    """One engine that is checked, what it is asked, and what it must reproduce."""

    spec: EngineSpec
    items: list[ScoreItem]
    other: CheckpointRef  # of the same shape with other weights
    reference: Reference
    engine: VllmEngine
    swapped: list[float] = field(default_factory=list)  # token scores of the other weights

    @property
    def dtype(self) -> torch.dtype:
        """The engine's type."""
        return getattr(torch, self.spec.dtype)  # type: ignore[no-any-return]

    @property
    def limit(self) -> Difference:
        """How far values of one token may be from fp32 on the subject's own texts."""
        return self.reference.limit(self.dtype)

    @property
    def swap_limit(self) -> Difference:
        """How far two ways to the same weights may be apart: 16-bit kernels may round otherwise in other batches."""
        return SWAP_LIMIT if self.dtype == torch.float32 else self.limit

    def scores(self) -> list[Score]:
        """The engine's scores of all items."""
        rows = self.engine.score(self.items)
        found = [row for row in rows if isinstance(row, Score)]
        assert len(found) == len(rows), f"{len(rows) - len(found)} of {len(rows)} items were refused"
        return found

    def token_scores(self) -> list[float]:
        """The log-likelihood of every token of every option."""
        return _token_scores(self.scores())

    def prompts(self, count: int, max_tokens: int) -> list[Prompt]:
        """Prompts to continue, each with a seed of its own."""
        asked = [self.items[at % len(self.items)] for at in range(count)]
        return [
            Prompt(f"p{at}", "", "", item.context, item.prompt, max_tokens, 0.7, at, "")
            for at, item in enumerate(asked)
        ]


def check_parity(subject: Subject) -> Figures:
    """Every token of some texts has the likelihood of a plain fp32 forward pass, as near as the type allows."""
    echoes = subject.engine.echo(subject.reference.rows)
    values = [echo.log_likelihoods for echo in echoes if isinstance(echo, Echo)]
    assert len(values) == len(echoes), "a text was refused"
    found = difference(subject.reference, values, 1)
    assert found.within(subject.limit), f"off fp32 by {found}; the limit is {subject.limit}"
    at_start = subject.engine.stats()["parity_difference"]
    return {"mean": found.mean, "max": found.max, "limit": subject.limit.max, "at_start": at_start}


def check_strategies(subject: Subject) -> Figures:
    """Every scoring strategy that this engine can run gives the scores of the slow one, `whole`."""
    own = subject.engine.strategy
    runners = (None, bool(own.v2_runner))
    names = [one.name for one in STRATEGIES if one.v2_runner in runners and not one().obstacle()]
    found: dict[str, list[Score]] = {}
    computed: dict[str, float] = {}
    try:
        for name in names:
            subject.engine.strategy = choose_strategy(name)
            before = subject.engine.stats()["computed_tokens"]
            found[name] = subject.scores()
            computed[name] = subject.engine.stats()["computed_tokens"] - before
    finally:
        subject.engine.strategy = own
    figures: Figures = {}
    for name in (name for name in names if name != "whole"):
        assert [row.num_tokens for row in found[name]] == [row.num_tokens for row in found["whole"]], f"{name}: tokens"
        distance = distance_of(*(_token_scores(found[one]) for one in (name, "whole")))
        assert distance.within(subject.limit), f"{name} is off `whole` by {distance}; the limit is {subject.limit}"
        figures[name] = distance.max
    assert own.name in figures, f"the engine's own strategy, {own.name}, was not compared"
    return {**figures, "limit": subject.limit.max, "tokens_of_whole_over_own": computed["whole"] / computed[own.name]}


def check_swap(subject: Subject) -> Figures:
    """Other weights change the scores, and the first ones bring them back; without a cold restart."""
    restarts = subject.engine.stats()["cold_restarts"]
    values = []
    own = CheckpointRef("own", subject.spec.model, weights_fingerprint(Path(subject.spec.model)), "", 0)
    for ref in (own, subject.other, own):
        subject.engine.load_weights(ref)
        values.append(subject.token_scores())
    before, subject.swapped, after = values
    moved, back = distance_of(before, subject.swapped), distance_of(before, after)
    is_other = moved.max >= LEAST_MOVED and not moved.within(subject.swap_limit)
    assert is_other, f"other weights moved the scores by {moved} only"
    assert back.within(subject.swap_limit), f"scores came back with a difference of {back}"
    assert subject.engine.stats()["cold_restarts"] == restarts, "a swap needed a cold restart"
    return {"moved": moved.max, "back": back.max, "limit": subject.swap_limit.max}


def check_cold_start(subject: Subject) -> Figures:
    """An engine that starts with the other weights has the scores that swapping them in gave. Ends the first one."""
    assert subject.swapped, "no swap to compare with: it failed"
    subject.engine.close()
    subject.engine = VllmEngine(replace(subject.spec, model=subject.other.path))
    distance = distance_of(subject.swapped, subject.token_scores())
    assert distance.within(subject.swap_limit), f"swapped in and started cold differ by {distance}"
    return {"max": distance.max, "limit": subject.swap_limit.max}


def check_stream(subject: Subject) -> Figures:
    """Several threads stream texts at once: the parts are the text, which is the one that `generate` writes."""

    def read(prompt: Prompt) -> tuple[list[Any], Any]:
        *parts, whole = subject.engine.stream(prompt)
        return parts, whole

    prompts = subject.prompts(NUM_TEXTS, TEXT_TOKENS)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        streamed = list(threads.map(read, prompts))
    for parts, whole in streamed:
        assert isinstance(whole, Generation), f"a prompt was refused: {whole}"
        assert "".join(parts) == whole.text, "the parts of a text are not the text"
    num_parts = sum(len(parts) for parts, _ in streamed)
    assert num_parts > len(prompts), "texts came whole, not in parts"
    together = subject.engine.generate(prompts)
    equal = sum(whole == row for (_, whole), row in zip(streamed, together, strict=True)) / len(prompts)
    if subject.dtype == torch.float32:
        assert equal >= LEAST_EQUAL, f"only {equal:.0%} of the texts are those of `generate`"
    return {"parts": num_parts, "equal_texts": equal}


def check_cancellation(subject: Subject) -> Figures:
    """Who stops reading and who is cancelled takes the requests along; the engine answers others."""
    unfinished = subject.engine._host._llm.llm_engine.has_unfinished_requests
    prompts = subject.prompts(NUM_CANCELLED, CANCELLED_TOKENS)
    stream = subject.engine.stream(prompts[0])
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not unfinished(), "a stream was closed, and its request still runs"
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as threads:
        with cancellable(context):
            work = threads.submit(context.run, subject.engine.generate, prompts)
        error = work.exception()
    assert isinstance(error, CancelledCallError), f"a cancelled call ended with {error!r}"
    assert not unfinished(), "a call was cancelled, and its requests still run"
    (answer,) = subject.engine.generate([replace(prompts[0], max_tokens=4)])
    assert isinstance(answer, Generation), f"afterwards a prompt was refused: {answer}"
    return {}


CHECKS: dict[str, Callable[[Subject], Figures]] = {
    "parity": check_parity,
    "strategies": check_strategies,
    "stream": check_stream,
    "cancellation": check_cancellation,
    "swap": check_swap,
    "cold_start": check_cold_start,
}


class ChecksSide(PeakSide):
    """A process in which engines are checked, one after the other, or one is timed, or the machine itself."""

    def check(
        self, settings: dict[str, Any], checks: list[str], model: str, items: str, folder: str
    ) -> dict[str, list[dict[str, Any]]]:
        """The results of `start` and of each check, with an engine of these settings. Other weights go to `folder`."""
        spec = EngineSpec("vllm", model, kv_cache_gib=KV_CACHE_GIB, **settings)
        if reason := obstacle(spec):
            return {"checks": [result(name, SKIPPED, reason) for name in checks]}
        started: list[Subject] = []

        def start() -> tuple[Subject, Figures]:
            (other,) = make_checkpoints(Path(model), Path(folder), 1)
            started.append(start_subject(spec, read_shard(Path(items), ScoreItem), other))
            return started[0], {"window": started[0].engine.window}

        results = attempt_all(checks, start, CHECKS)
        for subject in started:
            subject.engine.close()
        return {"checks": results}

    def open(self, model: str, sizes: dict[str, int]) -> None:
        """Make the model that is timed and start an engine, with the memory that it takes by default."""
        make_model(Path(model), "bfloat16", **sizes)
        self._engine = VllmEngine(EngineSpec("vllm", model, dtype="bfloat16"))

    def score(self, number: int, num_words: int, context_tokens: int, num_questions: int) -> Figures:
        """Seconds to score questions after one fresh context, and the tokens that it took."""
        items = roofline.make_items(number, num_words, context_tokens, num_questions)
        return self._timed(lambda: self._engine.score(items))

    def write(self, number: int, num_words: int, num_rows: int, prompt_tokens: int, max_tokens: int) -> Figures:
        """Seconds to continue fresh prompts, and the tokens that it took."""
        prompts = roofline.make_prompts(number, num_words, num_rows, prompt_tokens, max_tokens)
        return self._timed(lambda: self._engine.generate(prompts))

    def _timed(self, work: Callable[[], Sequence[Any]]) -> Figures:
        before = self._engine.stats()
        started = time.perf_counter()
        rows = work()
        seconds = time.perf_counter() - started
        refused = [row for row in rows if not isinstance(row, Score | Generation)]
        assert not refused, refused[0]
        counted = self._engine.stats()
        names = ("computed_tokens", "scored_tokens", "generated_tokens")
        return {"seconds": seconds, **{name: counted[name] - before[name] for name in names}}


def start_subject(spec: EngineSpec, items: list[ScoreItem], other: CheckpointRef) -> Subject:
    """Start an engine, after computing what the weights say of some texts; the start itself compares others."""
    tokenizer = AutoTokenizer.from_pretrained(spec.model)
    texts = (f"{item.context}{item.prompt}{item.joiner}{item.continuations[0]}" for item in items)
    rows = [tokenizer(text)["input_ids"] for text in dict.fromkeys(texts)][:NUM_ROWS]
    length = min(ROW_TOKENS, *map(len, rows))
    ends = [row[-length:] for row in rows]  # contexts are alike, questions are not
    reference = compute_reference(Path(spec.model), (spec.dtype,), rows=ends)
    return Subject(spec, items, other, reference, VllmEngine(spec))


def obstacle(spec: EngineSpec) -> str:
    """Why this machine cannot run an engine; "" if it can."""
    if torch.cuda.device_count() < spec.tensor_parallel > 1:
        return f"{spec.tensor_parallel} GPUs are needed, {torch.cuda.device_count()} are here"
    known = {strategy.name: strategy for strategy in STRATEGIES}
    return known[spec.scoring]().obstacle() if spec.scoring in known else ""


def distance_of(first: Sequence[float], second: Sequence[float]) -> Difference:
    """How far two lists of the same length are apart; a NaN stays one."""
    apart = (torch.tensor(first, dtype=torch.float64) - torch.tensor(second, dtype=torch.float64)).abs()
    return Difference(apart.mean().item(), apart.max().item())


def _token_scores(scores: Sequence[Score]) -> list[float]:
    return [value for score in scores for value in score.token_log_likelihoods]


if __name__ == "__main__":
    serve(ChecksSide())
