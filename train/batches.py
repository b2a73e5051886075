"""Texts become token rows, and token rows become the batches of one rank. Pure: reads and writes nothing.

The batches of a run follow from the texts, the seed, the batch size and the number of steps alone; the number of
ranks only decides who computes which rows.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.errors import InputError
from data.seeds import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy skips
_WORDS_LISTED = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's rows of one step. Producer: `rank_batches`. Consumer: `train.loop`.

    `input_ids` and `labels` are int64 [rows, tokens], padded on the right; `labels[i, j]` is the token that follows
    `input_ids[i, j]`, or -100. `global_labels` counts the labels of the step over all ranks, `indices` names the
    step's texts over all ranks. A causal model never looks right, so no attention mask is needed.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    global_labels: int
    indices: np.ndarray


def encode(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", *, window: int, where: str) -> list[list[int]]:
    """Token ids of each text as the tokenizer writes it, ending in its eos token if it has one.

    Raises InputError for words outside a closed vocabulary, and for texts longer than the model's `window` or too
    short to predict anything.
    """
    rows: list[list[int]] = tokenizer(list(texts), return_attention_mask=False)["input_ids"]
    unknown, eos = _unknown_token(tokenizer), tokenizer.eos_token_id
    if unknown is not None and any(unknown in row for row in rows):
        words = unknown_words([text for text, row in zip(texts, rows, strict=True) if unknown in row], tokenizer)
        listed = ", ".join(words[:_WORDS_LISTED]) + (" ..." if len(words) > _WORDS_LISTED else "")
        raise InputError(
            f"{len(words)} words are outside the model's closed vocabulary: {listed}",
            where=where,
            mend="use texts made for this model, or name a model with an open vocabulary",
        )
    if eos is not None:
        rows = [row if row[-1:] == [eos] else [*row, eos] for row in rows]
    for text, row in zip(texts, rows, strict=True):
        if not 2 <= len(row) <= window:
            raise InputError(
                f"a text of {len(row)} tokens cannot be trained on (2 to {window} can): {text[:60]!r}",
                where=where,
                mend="split long texts, drop empty ones, or name a model with a longer window",
            )
    return rows


def unknown_words(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The distinct words that the tokenizer can only write as its unknown token, in order of appearance."""
    unknown = _unknown_token(tokenizer)
    words = dict.fromkeys(word for text in texts for word in re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]", text))
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]


def schedule_rows(num_rows: int, batch_size: int, num_steps: int, seed: int) -> np.ndarray:
    """Row indices [num_steps, batch_size]: epochs, each a fresh shuffle of all rows, laid end to end."""
    num_epochs = -(-num_steps * batch_size // num_rows)
    epochs = [np.random.default_rng(derive_seed(seed, "epoch", e)).permutation(num_rows) for e in range(num_epochs)]
    return np.concatenate(epochs)[: num_steps * batch_size].reshape(num_steps, batch_size)


def pad(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels [rows, longest - 1] of token rows; padding is token 0 with label -100."""
    longest = max(map(len, rows)) - 1
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for i, row in enumerate(rows):
        input_ids[i, : len(row) - 1] = row[:-1]
        labels[i, : len(row) - 1] = row[1:]
    return input_ids, labels


def rank_batches(
    rows: Sequence[Sequence[int]], *, batch_size: int, num_steps: int, seed: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """The batches of one rank, a step each; the ranks' rows of a step partition its global batch.

    Rows are dealt like cards, the longest first, so that ranks carry like loads.
    """
    for indices in schedule_rows(len(rows), batch_size, num_steps, seed):
        longest_first = sorted(indices, key=lambda i: -len(rows[i]))
        input_ids, labels = pad([rows[i] for i in longest_first[rank::world_size]])
        yield Batch(input_ids, labels, sum(len(rows[i]) - 1 for i in indices), indices)


def _unknown_token(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id of the unknown token, where it means that and is not the eos or bos token under another name."""
    if tokenizer.unk_token_id in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return None
    return tokenizer.unk_token_id
