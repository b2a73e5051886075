"""The largest micro-batch of a run, estimated from its texts before anything starts.

Reads a model's tokenizer and a run's texts, of which it tokenizes about a thousand. Writes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappushpop
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data.records import Distribution
from data.store import is_sealed, read_shard
from train.plan.flops import multiplied_weights
from train.plan.shapes import Shape
from train.run.finetune_run import FinetuneRun
from train.texts.mix import Budget, Lengths, make_schedule
from train.texts.packing import SAMPLED_STEPS, Arithmetic, choose_layout, most_rows
from train.texts.sources import TextSource, is_distribution, no_texts, read_rows, replay_shares, shards_of, weights_of

LONGEST_READ = 16  # the longest text by tokens is nearly always among the longest by characters
OTHERS_READ = 1024


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank computes at once: its largest micro-batch. Producer: `largest_part`. Consumer: plans."""

    rows: int
    row_tokens: int
    packed: bool


def part_of_rows(run: FinetuneRun, ranks: int, row_tokens: int) -> Part:
    """The micro-batch of a run whose texts all have `row_tokens`, one a row."""
    texts = max(1, run.batch_tokens // row_tokens) if run.batch_tokens else run.batch_size
    return Part(-(-texts // (ranks * run.accumulation)), row_tokens, packed=run.layout != "padded")


def largest_part(run: FinetuneRun, ranks: int, shape: Shape, *, skip_missing: bool = False) -> Part:
    """The most rows of a sample of batches, all as long as the longest text; packed rows count by their tokens.

    Whether the model keeps packed texts separate is unknown before it is loaded; here it is assumed. `skip_missing`
    leaves out sources that are not written yet. Raises InputError if no source has texts.
    """
    chosen = tuple(source for source in run.sources if not skip_missing or is_sealed(Path(source.folder)))
    inputs, sources = _sample(run.base, chosen)
    inputs = np.minimum(inputs, (run.max_text_tokens or shape.window) - 1)
    longest = int(inputs.max())
    # A source without texts leaves its share to the others, or is refused when the texts are tokenized.
    weights = [weight * bool((sources == index).any()) for index, weight in enumerate(weights_of(chosen))]
    schedule = make_schedule(
        Lengths(inputs, inputs, sources),
        weights if any(weights) else [],
        replay=replay_shares(chosen),
        budget=Budget(steps=SAMPLED_STEPS),
        batch_size=run.batch_size,
        batch_tokens=run.batch_tokens,
        seed=run.seed,
    )
    layout = choose_layout(
        run.layout,
        refusal=None,
        schedule=schedule,
        num_inputs=inputs,
        world_size=ranks,
        arithmetic=Arithmetic(2.0 * multiplied_weights(shape), 4.0 * shape.queries * shape.layers),
        where=f"train.layout of run {run.name}",
        accumulation=run.accumulation,
    )
    rows = most_rows(schedule, inputs, layout, world_size=ranks, accumulation=run.accumulation, row_tokens=longest)
    return Part(rows, longest, packed=layout.name == "packed")


@lru_cache(maxsize=64)
def _sample(base: str, sources: tuple[TextSource, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and source of a sample of texts [n] each: the longest of every source, and some of the others."""
    found = [np.array(list(_inputs(base, source)), np.int64) for source in sources]
    if not sum(map(len, found)):
        raise no_texts(sources)
    return np.concatenate(found), np.repeat(np.arange(len(found)), [len(inputs) for inputs in found])


def _inputs(base: str, source: TextSource) -> Iterator[int]:
    """The number of tokens that the model reads of a text: all but the last, which is only predicted."""
    shards = shards_of(source)  # refuses a folder that is not finished
    if is_distribution(source):
        yield from (len(row.token_ids) - 1 for shard in shards for row in read_shard(shard, Distribution))
        return
    # A conversation counts as a whole, in JSON: about the tokens of its longest row. Of chat rows, the marks of the
    # template do not count.
    texts = (prompt + text for rows in read_rows(source) for text, prompt in zip(rows.texts, rows.prompts, strict=True))
    sample = longest_and_some(texts)
    tokenizer = _tokenizer(base)
    # Without a fast tokenizer every character counts as a token.
    counts = map(len, sample) if tokenizer is None else (len(found.ids) for found in tokenizer.encode_batch(sample))
    yield from (max(1, count) for count in counts)


def longest_and_some(texts: Iterator[str]) -> list[str]:
    """The `LONGEST_READ` longest of a stream of texts, and at most `OTHERS_READ` of the others at equal distances."""
    longest: list[tuple[int, int, str]] = []  # a heap
    others: list[str] = []
    seen, stride = 0, 1
    for number, text in enumerate(texts):
        if len(longest) < LONGEST_READ:
            longest.append((len(text), number, text))
            longest.sort()
            continue
        *_, other = heappushpop(longest, (len(text), number, text))
        if seen % stride == 0:
            others.append(other)
        seen += 1
        if len(others) > OTHERS_READ:
            others, stride = others[::2], 2 * stride
    return [text for *_, text in longest] + others


@lru_cache(maxsize=1)
def _tokenizer(base: str) -> Tokenizer | None:
    path = Path(base) / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
