"""What an engine's host does before vLLM: 512 questions with four options after 128,000 tokens, from texts to requests.

    python -m benchmarks.long_context --json long_context.json

Reads the tokenizer and the words of a model; starts no engine. Ratios are 1 at 2 s and at 300 MiB.
"""

import sys
import time
import tracemalloc
from collections.abc import Sequence

from transformers import AutoTokenizer

from augment_service.engines.vllm.scoring import Evaluation
from augment_service.engines.vllm.strategies import choose_strategy
from augment_service.tokens import ItemTokens, TextReader, reading_order
from benchmarks.harness import Bench, Goal, print_ratios, run
from data.records import ScoreItem
from data.seeds import stream

GOALS = {"host_seconds": Goal(1.0), "host_mib": Goal(1.0)}
SECONDS, MIB = 2.0, 300.0
NUM_ITEMS, NUM_OPTIONS, CONTEXT_TOKENS = 512, 4, 128_000


def measure(bench: Bench) -> None:
    """Time the rounds, then weigh one more; each has a context of its own."""
    num_items, length = (8, 2_000) if bench.flags.smoke else (NUM_ITEMS, CONTEXT_TOKENS)
    tokenizer = AutoTokenizer.from_pretrained(bench.flags.model)
    words = [token for token in tokenizer.get_vocab() if token.isalpha() and token not in tokenizer.all_special_tokens]
    reader = TextReader(tokenizer, window=2 * length)
    seconds = []
    for number in range(bench.flags.rounds):
        items = _make_items(sorted(words), number, num_items, length)
        started = time.perf_counter()
        num_requests = _prepare(reader, items)
        seconds.append(time.perf_counter() - started)
        bench.tell(f"round {number + 1}/{bench.flags.rounds}  {seconds[-1]:.2f} s  {num_requests} requests")
    items = _make_items(sorted(words), bench.flags.rounds, num_items, length)
    tracemalloc.start()
    _prepare(reader, items)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    median = sorted(seconds)[len(seconds) // 2]
    ratios = {"host_seconds": SECONDS / median, "host_mib": MIB / peak}
    bench.report = {"seconds": seconds, "peak_mib": peak, "requests": num_requests, "ratios": ratios}
    bench.tell(f"{num_items} items after {length} tokens: {median:.2f} s, {peak:.0f} MiB")
    print_ratios(bench, ratios, GOALS)


def _prepare(reader: TextReader, items: Sequence[ScoreItem]) -> int:
    """All that the engine does with items before vLLM; returns the number of requests."""
    rows = reader.items(items)
    order = reading_order([(item.context, item.prompt) for item in items])
    groups = [row.pairs for at in order if isinstance(row := rows[at], ItemTokens)]
    evaluation = Evaluation(choose_strategy("forced"), groups)
    return sum(1 for _ in evaluation.requests())


def _make_items(words: Sequence[str], number: int, num_items: int, length: int) -> list[ScoreItem]:
    draw = stream(0, "benchmarks", "long context", number)
    context = " ".join(draw.choices(words, k=length))
    options = (
        tuple(" ".join(draw.choices(words, k=draw.randint(2, 6))) for _ in range(NUM_OPTIONS)) for _ in range(num_items)
    )
    return [
        ScoreItem(str(at), context, f" {' '.join(draw.choices(words, k=8))}", own) for at, own in enumerate(options)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("long_context", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
