"""Properties of the batches: what is trained on does not depend on the ranks, and padding is never trained on."""

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from training_runs import encode
from transformers import PreTrainedTokenizerFast

from data.errors import InputError
from train.texts.batches import IGNORED, Batch, batches_of
from train.texts.mix import Budget, make_schedule
from train.texts.packing import Layout
from train.texts.tokens import TokenRows

SIZES = st.integers(min_value=1, max_value=40)
ROWS = st.lists(st.lists(st.integers(1, 99), min_size=2, max_size=12), min_size=1, max_size=12)


def rank_batches(
    rows: list[list[int]], *, batch_size: int, num_steps: int, seed: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """The padded batches of one rank for rows in memory, every text equally often."""
    held = TokenRows.of(rows)
    schedule = make_schedule(held.lengths, [], budget=Budget(steps=num_steps), batch_size=batch_size, seed=seed)
    return batches_of(held, schedule, Layout("padded"), rank=rank, world_size=world_size)


def word_tokenizer(*, bos: bool = False, eos: bool = True) -> PreTrainedTokenizerFast:
    words = ["[UNK]", "[EOS]", "[BOS]", "a", "dog", "is", "mortal", "."]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", eos_token="[EOS]" if eos else None, bos_token="[BOS]" if bos else None
    )


def drawn(num_rows: int, batch_size: int, num_steps: int, seed: int) -> np.ndarray:
    """The indices [num_steps, batch_size] of the texts of each step, without weights."""
    lengths = TokenRows.of([[1, 2]] * num_rows).lengths
    schedule = make_schedule(lengths, [], budget=Budget(steps=num_steps), batch_size=batch_size, seed=seed)
    return np.stack([schedule.step(step) for step in range(num_steps)])


@given(num_rows=SIZES, batch_size=SIZES, num_steps=SIZES, seed=st.integers(0, 2**62))
def test_every_text_occurs_equally_often_up_to_one(num_rows: int, batch_size: int, num_steps: int, seed: int) -> None:
    schedule = drawn(num_rows, batch_size, num_steps, seed)
    counts = np.bincount(schedule.ravel(), minlength=num_rows)
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(schedule, drawn(num_rows, batch_size, num_steps, seed))


def test_epochs_and_seeds_shuffle_anew() -> None:
    schedule = drawn(50, 50, 2, seed=0)
    assert not np.array_equal(schedule[0], schedule[1])
    assert not np.array_equal(schedule[0], drawn(50, 50, 1, seed=1)[0])


@given(rows=ROWS, world_size=st.integers(1, 4), extra=st.integers(0, 9), seed=st.integers(0, 99))
def test_rank_slices_partition_the_global_batch(rows: list[list[int]], world_size: int, extra: int, seed: int) -> None:
    size = {"batch_size": world_size + extra, "num_steps": 3, "seed": seed}
    ranks = [list(rank_batches(rows, **size, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for parts in zip(*ranks, strict=True):
        taught = Counter(
            tuple(label for label in labels if label != IGNORED) for part in parts for labels in part.labels.tolist()
        )
        assert taught == Counter(tuple(rows[i][1:]) for i in parts[0].indices)
        assert {part.global_labels for part in parts} == {sum(len(label) * n for label, n in taught.items())}


def test_padded_batches_are_golden() -> None:
    """A run that was begun with an earlier version goes on with the same batches."""
    rows = [[(7 * i + j * j) % 90 + 1 for j in range(2 + i * i % 17)] for i in range(23)]
    digest = hashlib.blake2b(digest_size=8)
    for rank in range(3):
        for batch in rank_batches(rows, batch_size=7, num_steps=9, seed=5, rank=rank, world_size=3):
            for part in (batch.input_ids, batch.labels, batch.indices):
                digest.update(repr((part.shape, part.tolist())).encode())
            digest.update(str(batch.global_labels).encode())
    assert digest.hexdigest() == "80eb2aef4c6b1d64"


@given(ROWS)
def test_padding_carries_no_label_and_labels_are_the_next_tokens(rows: list[list[int]]) -> None:
    size = {"batch_size": len(rows), "num_steps": 1, "seed": 0}
    (batch,) = rank_batches(rows, **size, rank=0, world_size=1)
    input_ids, labels = batch.input_ids, batch.labels
    rows = [rows[index] for index in sorted(batch.indices, key=lambda index: -len(rows[index]))]
    assert input_ids.shape == labels.shape == (len(rows), max(map(len, rows)) - 1)
    for i, row in enumerate(rows):
        assert input_ids[i, : len(row) - 1].tolist() == row[:-1]
        assert labels[i, : len(row) - 1].tolist() == row[1:]
        assert (labels[i, len(row) - 1 :] == IGNORED).all()


@pytest.mark.parametrize(
    ("bos", "eos", "expected"), [(False, True, [3, 4, 1]), (True, True, [2, 3, 4, 1]), (False, False, [3, 4])]
)
def test_texts_end_in_eos_and_begin_as_the_tokenizer_begins_them(bos: bool, eos: bool, expected: list[int]) -> None:
    assert encode(["a dog"], word_tokenizer(bos=bos, eos=eos), window=8) == [expected]


def test_unknown_words_are_listed() -> None:
    with pytest.raises(InputError) as refusal:
        encode(["a dog is mortal .", "a cat is a wug."], word_tokenizer(), window=8)
    assert refusal.value.what.endswith("vocabulary: cat, wug")
    assert refusal.value.what.startswith("2 words")
