"""Packed rows: nothing is lost or split, no architecture lets texts see each other, and the choice is by arithmetic."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WINDOW, random_model
from transformers import MambaConfig, MambaForCausalLM

from data.errors import InputError
from train.batches import IGNORED, Batch, batches_of
from train.mix import Budget, Schedule, make_schedule
from train.objective import model_inputs
from train.packing import Arithmetic, Layout, choose_layout, deal, pack
from train.packing_probe import arithmetic_of, packing_difference, packing_refusal
from train.token_rows import TokenRows

KINDS = ("llama", "qwen3", "gemma3", "gpt2")
PADDED, PACKED = Layout("padded"), Layout("packed", 24)
ROWS = st.lists(st.lists(st.integers(1, 99), min_size=2, max_size=40), min_size=1, max_size=12)
MODELS = {kind: random_model(kind, tied=True, sliding_window=8).double().eval() for kind in KINDS}


def one_step(rows: TokenRows) -> Schedule:
    return make_schedule(rows.lengths, [], budget=Budget(steps=1), batch_size=len(rows), seed=0)


def batches(rows: TokenRows, layout: Layout, world_size: int = 1) -> list[Batch]:
    return [
        next(batches_of(rows, one_step(rows), layout, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]


@given(lengths=st.lists(st.integers(1, 40), max_size=40), capacity=st.integers(1, 50))
def test_rows_hold_every_text_once_and_no_more_than_fits(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert len(row) == 1 or sum(lengths[index] for index in row) <= capacity
    if all(length <= capacity for length in lengths):  # no two rows could share one
        loads = sorted(sum(lengths[index] for index in row) for row in rows)
        assert len(loads) < 2 or loads[0] + loads[1] > capacity


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40), world_size=st.integers(1, 5))
def test_ranks_carry_like_loads(lengths: list[int], world_size: int) -> None:
    hands = deal(lengths, world_size)
    assert sorted(index for hand in hands for index in hand) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(lengths)


@settings(deadline=None)
@given(rows=ROWS, world_size=st.integers(1, 4), width=st.sampled_from([16, 24, 64]), data=st.data())
def test_packed_ranks_teach_what_padded_ones_teach(
    rows: list[list[int]], world_size: int, width: int, data: st.DataObject
) -> None:
    """Whatever the layout and the ranks, also more ranks than texts: the same labels after the same inputs."""
    held = TokenRows.of(rows)
    parts = batches(held, Layout("packed", width), world_size)
    taught: Counter[tuple[int, ...]] = Counter()
    for part in parts:
        assert part.position_ids is not None
        assert part.input_ids.shape == part.labels.shape == part.position_ids.shape
        assert part.global_labels == sum(len(row) - 1 for row in rows)
        for ids, labels, positions in zip(part.input_ids, part.labels, part.position_ids, strict=True):
            starts = [*np.flatnonzero(positions == 0), len(positions)]
            for start, end in pairwise(starts):
                assert positions[start:end].tolist() == list(range(end - start))
                if labels[start] != IGNORED:
                    taught[(*ids[start:end].tolist(), int(labels[end - 1]))] += 1
                    assert labels[start : end - 1].tolist() == ids[start + 1 : end].tolist()
                else:  # padding
                    assert (labels[start:end] == IGNORED).all() and (ids[start:end] == 0).all()
    assert taught == Counter(map(tuple, rows))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=12)
@given(rows=ROWS, width=st.sampled_from([16, 64, 250]))
def test_packed_loss_is_the_loss_of_each_text_alone(kind: str, rows: list[list[int]], width: int) -> None:
    """In float64: sums in float32 differ by as much. Gemma's windows are 8 tokens wide, less than most texts."""
    model, held = MODELS[kind], TokenRows.of(rows)
    with torch.no_grad():
        (packed,) = batches(held, Layout("packed", width))
        logits, labels = model(**model_inputs(packed, "cpu")).logits, torch.from_numpy(packed.labels)
        learned = labels != IGNORED
        together = float(torch.nn.functional.cross_entropy(logits[learned], labels[learned], reduction="sum"))
        alone = 0.0
        for row in rows:
            ids = torch.tensor([row])
            logits = model(ids[:, :-1], use_cache=False).logits
            alone += float(torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
    assert together / packed.global_labels == pytest.approx(alone / packed.global_labels, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_known_architectures_keep_texts_apart(kind: str) -> None:
    assert packing_refusal(MODELS[kind]) is None
    assert packing_difference(MODELS[kind], (100, 60, 30)) < 1e-4


def test_the_probe_sees_attention_across_texts() -> None:
    """The same call with a mask of ones, as a data collator would add it, leaks: the probe must say so."""
    leaky = random_model("llama", tied=True)
    inner = leaky.forward

    def forward(input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **options: object) -> object:
        return inner(input_ids, position_ids=position_ids, attention_mask=torch.ones_like(input_ids), **options)

    leaky.forward = forward
    refusal = packing_refusal(leaky)
    assert refusal is not None and "packed texts see each other" in refusal


def test_a_recurrent_model_is_not_packed() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 50}
    refusal = packing_refusal(MambaForCausalLM(MambaConfig(**sizes)))
    assert refusal == "MambaForCausalLM takes no position ids"


def choose(
    wanted: str, lengths: list[int], refusal: str | None = None, row_tokens: int = 0, accumulation: int = 1
) -> Layout:
    rows = TokenRows.of([[1] * (length + 1) for length in lengths])
    return choose_layout(
        wanted,
        row_tokens,
        refusal=refusal,
        schedule=one_step(rows),
        num_inputs=rows.lengths.num_inputs,
        window=WINDOW,
        world_size=1,
        arithmetic=Arithmetic(per_token=1e5, per_pair=1e3),
        where="run r",
        accumulation=accumulation,
    )


def test_each_part_of_a_batch_needs_a_packed_row() -> None:
    lengths = [10, 9, 8, 7, 6, 5, 6, 7]  # four rows of 16, two of 32, one of 64
    assert choose("packed", lengths, row_tokens=32, accumulation=2).row_tokens == 32
    assert choose("packed", lengths, accumulation=4).row_tokens == 16
    assert choose("auto", lengths, accumulation=9).why == "packed rows are too few for 9 parts"
    with pytest.raises(InputError, match="packed rows are too few for 3 parts"):
        choose("packed", lengths, row_tokens=32, accumulation=3)


def test_the_layout_follows_from_the_lengths() -> None:
    unlike, alike = [5, 7, 9, 12, 20, 30, 60, 6], [32] * 8
    assert choose("auto", unlike).name == "packed"
    assert "0." in choose("auto", unlike).why
    assert choose("auto", alike).name == "padded"
    assert choose("padded", unlike).name == "padded"
    assert choose("packed", alike).name == "packed"
    assert choose("packed", unlike, row_tokens=48).row_tokens == 48
    with pytest.raises(InputError, match="rows of 257 tokens are longer than the model's window of 256"):
        choose("auto", unlike, row_tokens=257)


def test_where_packing_leaks_auto_pads_and_packed_is_refused() -> None:
    layout = choose("auto", [5, 60], refusal="it leaks")
    assert (layout.name, layout.why) == ("padded", "packed rows cannot be had: it leaks")
    with pytest.raises(InputError, match="packed rows cannot be had: it leaks"):
        choose("packed", [5, 60], refusal="it leaks")


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_counts_the_weights_that_are_multiplied(kind: str) -> None:
    tied, untied = (arithmetic_of(random_model(kind, tied=tied)) for tied in (True, False))
    assert tied == untied  # the output layer is multiplied with in both, the table of embeddings only looked up
    assert tied.per_pair == 4 * 64 * 2
