"""Scoring on a GPU: a model of a billion random parameters, 16,000 tokens of context, against what the GPU can do.

    python -m benchmarks.roofline --json roofline.json

The bound is the time that the arithmetic of the computed tokens takes at the speed of a large matrix multiplication,
measured on the same GPU. Refuses a machine without one. Writes the model under the work folder, and the report.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Bench, forget, print_ratios, run
from benchmarks.mfu import measure_peak
from benchmarks.settings import shared_environment
from benchmarks.side import Side
from data.records import ScoreItem
from data.seeds import stream
from data.store import write_shard

NUM_WORDS = 32_000
CONTEXT_TOKENS, NUM_QUESTIONS, NUM_OPTIONS, QUESTION_TOKENS = 16_000, 60, 4, 14


@dataclass(frozen=True)
class Size:
    """The shape of a Llama; the output layer is the input embedding."""

    width: int = 2048
    inner: int = 8192
    layers: int = 16
    heads: int = 32
    key_value_heads: int = 8
    window: int = 16_384

    @property
    def parameters(self) -> int:
        """Weights of the matrices that a token is multiplied with; the embedding counts once, as the output layer."""
        attention = 2 * self.width**2 * (1 + self.key_value_heads / self.heads)
        return round(self.layers * (attention + 3 * self.width * self.inner) + NUM_WORDS * self.width)


def arithmetic(size: Size, context: int, more: int) -> float:
    """Floating-point operations to compute a context of so many tokens, and `more` tokens that each see all of it."""
    attention = 4 * size.layers * size.width * (context**2 / 2 + context * more)
    return 2.0 * size.parameters * (context + more) + attention


def make_model(folder: Path, size: Size) -> Path:
    """A Llama of that size with random bfloat16 weights, and a tokenizer that knows the words w0, w1, ..."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0} | {f"w{number}": number for number in range(1, NUM_WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=NUM_WORDS,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        max_position_embeddings=size.window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def make_items(number: int, context_tokens: int, num_questions: int) -> list[ScoreItem]:
    """Questions of random words after one context of random words; options of 2 to 6 tokens."""
    rng = stream(0, "benchmarks", "roofline", number)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(1, NUM_WORDS)}" for _ in range(count))

    context = words(context_tokens)
    return [
        ScoreItem(
            f"{number}-{at}",
            context,
            " " + words(QUESTION_TOKENS),
            tuple(words(rng.randint(2, 6)) for _ in range(NUM_OPTIONS)),
        )
        for at in range(num_questions)
    ]


def measure(bench: Bench) -> None:
    """Rounds on fresh contexts."""
    peak = measure_peak(bench)
    size = Size()
    model = make_model(bench.folder / "model", size)
    bench.tell(f"made a model of {size.parameters / 1e9:.2f} billion parameters")
    with Side(
        OURS, "benchmarks.sides.pool", folder=bench.folder / OURS, environment=shared_environment(on_gpu=True)
    ) as side:
        opening = bench.opening | {"model": str(model)}
        opened = side.call("open", folder=str(bench.folder / OURS / "ray"), **opening)
        bench.tell(f"started in {opened.seconds:.1f} s")
        rounds = [score(bench, side, number) for number in range(-1, bench.flags.rounds)][1:]
    report(bench, size, peak, rounds)
    bench.report |= opened.value


def score(bench: Bench, side: Side, number: int) -> dict[str, float]:
    """One round; returns its seconds and the tokens that were computed."""
    source, target = (bench.folder / f"{kind}-{number}.arrow" for kind in ("items", "scores"))
    items = make_items(number, CONTEXT_TOKENS, NUM_QUESTIONS)
    write_shard(source, ScoreItem, items)
    forget(target)
    before = side.call("stats").value
    unit = {"task": "score", "source": str(source), "target": str(target), "num_rows": len(items)}
    seconds = side.call("run", units=[unit]).seconds
    computed = side.call("stats").value["computed_tokens"] - before["computed_tokens"]
    bench.tell(f"round {number + 1}: {seconds:.2f} s, {computed:.0f} tokens computed")
    return {"seconds": seconds, "computed": computed}


def report(bench: Bench, size: Size, peak: dict[str, Any], rounds: list[dict[str, float]]) -> None:
    """Tokens a second, and the share of the bound."""
    shares = [
        arithmetic(size, CONTEXT_TOKENS, int(entry["computed"]) - CONTEXT_TOKENS) / peak["flops"] / entry["seconds"]
        for entry in rounds
    ]
    ratios = {
        "tokens_per_second": statistics.median(entry["computed"] / entry["seconds"] for entry in rounds),
        "share_of_roofline": statistics.median(shares),
    }
    print_ratios(bench, ratios, {})
    bench.report |= {"ratios": ratios, "rounds": rounds, "peak": peak, "parameters": size.parameters}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("roofline", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
