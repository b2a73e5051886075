"""What a machine can do at most with a model: the bounds that the speeds of `benchmarks.gpu` are held against.

Scoring is bound by the arithmetic of the computed tokens, writing in each of its steps by that or by reading weights
and keys and values once. Both at speeds measured on the same machine: a large matrix multiplication, a large copy.
Part of `benchmarks.gpu`; also makes what is scored and what is continued.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Bench
from benchmarks.side import Side
from data.records import Prompt, ScoreItem
from data.seeds import stream
from train.plan.flops import multiplied_weights
from train.plan.shapes import BF16, Shape

NUM_OPTIONS, QUESTION_TOKENS, OPTION_TOKENS = 4, 14, (2, 6)
TEMPERATURE = 0.7
# A Llama of a billion parameters, as arguments of `corpora.make_model`.
BILLION: dict[str, int] = {
    "words": 32_000, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 16_384,
}  # fmt: skip


def measure_peak(bench: Bench, side: Side) -> dict[str, Any]:
    """The device's name, the FLOP/s of a large matrix multiplication, the bytes per second of a large copy.

    `side` is a process that measures them: its memory is free when it has ended.
    """
    peak = side.call("measure_peak", device="cuda" if bench.on_gpu else "cpu").value
    bench.tell(f"{peak['name']}: {peak['flops'] / 1e12:.3g} TFLOP/s, {peak['bytes_per_second'] / 1e9:.3g} GB/s")
    return peak


def arithmetic(shape: Shape, tokens: int, pairs: float, outputs: int) -> float:
    """Floating-point operations to compute `tokens` that see `pairs` tokens before them, all together.

    `outputs` of them are multiplied with the output layer.
    """
    inner = multiplied_weights(shape) - shape.embedding
    return 2.0 * (tokens * inner + outputs * shape.embedding) + 4.0 * shape.layers * shape.queries * pairs


def scoring_seconds(shape: Shape, peak: Mapping[str, Any], *, context: int, computed: int, scored: int) -> float:
    """The least time to compute a context and `computed - context` tokens that each see all of it."""
    pairs = context**2 / 2 + context * (computed - context)
    return arithmetic(shape, computed, pairs, scored) / peak["flops"]


def writing_seconds(shape: Shape, peak: Mapping[str, Any], *, rows: int, prompt: int, written: int) -> float:
    """A lower bound in seconds: prefill of `rows` prompts, then decoding of `written` tokens each, in one batch."""
    seconds = arithmetic(shape, rows * prompt, rows * prompt**2 / 2, rows) / peak["flops"]
    kept = 2 * BF16 * shape.layers * shape.keys  # bytes of keys and values of a token
    for seen in range(prompt + 1, prompt + written):
        computing = arithmetic(shape, rows, rows * seen, rows) / peak["flops"]
        reading = (BF16 * multiplied_weights(shape) + rows * seen * kept) / peak["bytes_per_second"]
        seconds += max(computing, reading)
    return seconds


def make_items(number: int, num_words: int, context_tokens: int, num_questions: int) -> list[ScoreItem]:
    """Questions of random words after one context of random words; options of 2 to 6 tokens. `number` decides them."""
    rng = stream(0, "benchmarks", "roofline", number)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(num_words)}" for _ in range(count))

    context = words(context_tokens)
    return [
        ScoreItem(
            f"{number}-{at}",
            context,
            " " + words(QUESTION_TOKENS),
            tuple(words(rng.randint(*OPTION_TOKENS)) for _ in range(NUM_OPTIONS)),
        )
        for at in range(num_questions)
    ]


def make_prompts(number: int, num_words: int, num_rows: int, prompt_tokens: int, max_tokens: int) -> list[Prompt]:
    """Prompts of random words that share nothing; `number` decides them."""
    rng = stream(0, "benchmarks", "roofline prompts", number)
    texts = [" ".join(f"w{rng.randrange(num_words)}" for _ in range(prompt_tokens)) for _ in range(num_rows)]
    return [
        Prompt(f"{number}-{at}", "", "", "", text, max_tokens, TEMPERATURE, at, "") for at, text in enumerate(texts)
    ]
