"""Packed rows: nothing is lost or split, no architecture lets texts see each other, and the choice is by arithmetic."""

import copy
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from emulated_varlen import emulated_varlen
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_model
from transformers import MambaConfig, MambaForCausalLM

from data.errors import InputError
from train.model import packed_attention
from train.model.objective import model_inputs, summed_loss, targets_of
from train.model.packed_attention import NAME, text_slots
from train.model.packing_probe import packing_difference, packing_refusal
from train.model.traits import arithmetic_of
from train.texts.batches import IGNORED, Batch, batches_of
from train.texts.mix import Budget, Schedule, make_schedule
from train.texts.packing import SHORT, SIMILAR, Arithmetic, Layout, balance, choose_layout, group_similar, most_rows
from train.texts.tokens import TokenRows

KINDS = ("llama", "qwen3", "gemma3", "gpt2")
LENGTHS = (90, 70, 41, 40, 33, 12, 9, 3, 2)
VARIED = TokenRows.of([[(7 * i + j * j) % 99 + 1 for j in range(length)] for i, length in enumerate(LENGTHS)])
ROWS = st.lists(st.lists(st.integers(1, 99), min_size=2, max_size=40), min_size=1, max_size=12)
MODELS = {kind: random_model(kind, tied=True, sliding_window=8).double().eval() for kind in KINDS}
PACKED_MODELS = copy.deepcopy(MODELS)
for packed_model in PACKED_MODELS.values():
    packed_model.set_attn_implementation(NAME)


def one_step(rows: TokenRows) -> Schedule:
    return make_schedule(rows.lengths, [], budget=Budget(steps=1), batch_size=len(rows), seed=0)


def batches(rows: TokenRows, layout: Layout, world_size: int = 1) -> list[Batch]:
    return [
        next(batches_of(rows, one_step(rows), layout, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=40))
def test_texts_that_share_a_call_are_alike(lengths: list[int]) -> None:
    groups = group_similar(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        shared = [lengths[index] for index in group]
        assert shared[0] == max(shared) and (shared[0] <= SHORT or min(shared) >= SIMILAR * shared[0])


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40), world_size=st.integers(1, 5))
def test_ranks_carry_like_loads(lengths: list[int], world_size: int) -> None:
    assigned = balance(lengths, world_size)
    assert sorted(index for hand in assigned for index in hand) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in hand) for hand in assigned]
    assert max(loads) - min(loads) <= max(lengths)


@given(rows=ROWS, world_size=st.integers(1, 4), num_rows=st.integers(1, 5))
def test_packed_ranks_teach_what_padded_ones_teach(rows: list[list[int]], world_size: int, num_rows: int) -> None:
    """Whatever the layout and the ranks, also more ranks than texts: the same labels after the same inputs."""
    held = TokenRows.of(rows)
    parts = batches(held, Layout("packed", num_rows), world_size)
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
@settings(max_examples=12)
@given(rows=ROWS, num_rows=st.sampled_from([1, 1, 2, 3]))
def test_packed_loss_is_the_loss_of_each_text_alone(kind: str, rows: list[list[int]], num_rows: int) -> None:
    """In float64: sums in float32 differ by as much. Gemma's windows are 8 tokens wide, less than most texts."""
    model, held = PACKED_MODELS[kind], TokenRows.of(rows)
    with torch.no_grad():
        (packed,) = batches(held, Layout("packed", num_rows))
        logits, labels = model(**model_inputs(packed, "cpu")).logits, torch.from_numpy(packed.labels)
        learned = labels != IGNORED
        together = float(torch.nn.functional.cross_entropy(logits[learned], labels[learned], reduction="sum"))
        alone = 0.0
        for row in rows:
            ids = torch.tensor([row])
            logits = MODELS[kind](ids[:, :-1], use_cache=False).logits
            alone += float(torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
    assert together / packed.global_labels == pytest.approx(alone / packed.global_labels, abs=1e-6)


def loss_and_gradients(model: Any, batch: Batch) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    targets = targets_of(batch, "cpu")
    logits = model(**model_inputs(batch, "cpu")).logits
    loss = summed_loss(logits.flatten(0, 1)[targets.positions], targets)
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def assert_alike(found: tuple[float, torch.Tensor], wanted: tuple[float, torch.Tensor]) -> None:
    # Losses and some norms are computed in float32, whatever the model's precision.
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    assert torch.allclose(found[1], wanted[1], rtol=1e-4, atol=1e-5 * float(wanted[1].abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_gradients_are_those_of_padded_rows(kind: str) -> None:
    packed, padded = (batches(VARIED, layout)[0] for layout in (Layout("packed", 2), Layout("padded")))
    assert_alike(loss_and_gradients(PACKED_MODELS[kind], packed), loss_and_gradients(MODELS[kind], padded))


# ---- variable-length attention, which is one call for all texts and runs on GPUs only


@pytest.fixture
def varlen_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of the calls, which are emulated as if this were a GPU."""
    calls: list[dict[str, Any]] = []

    def record(*tensors: Any, **options: Any) -> torch.Tensor:
        calls.append(options)
        return emulated_varlen(*tensors, **options)

    monkeypatch.setattr(packed_attention, "can_use_flash_attention", lambda parameters: True)
    monkeypatch.setattr(packed_attention, "varlen_attn", record)
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_for_all_texts_is_what_padded_calls_compute(
    kind: str, monkeypatch: pytest.MonkeyPatch, varlen_calls: list[dict[str, Any]]
) -> None:
    """Qwen3 and Gemma share keys among heads; Gemma's windows are of 8 tokens."""
    model = PACKED_MODELS[kind]  # in evaluation mode: GPT-2 has dropout
    (batch,) = batches(VARIED, Layout("packed", 2))
    in_one_call = loss_and_gradients(model, batch)
    heads, layers = model.config.num_attention_heads, model.config.num_hidden_layers
    assert len(varlen_calls) == layers
    shared = getattr(model.config, "num_key_value_heads", heads) < heads
    assert {call["enable_gqa"] for call in varlen_calls} == {shared}
    windows = {"gemma3": {(7, 0), (-1, 0)}}.get(kind, {(-1, 0)})
    assert {call["window_size"] for call in varlen_calls} == windows
    monkeypatch.setattr(packed_attention, "can_use_flash_attention", lambda parameters: False)
    assert_alike(in_one_call, loss_and_gradients(model, batch))
    assert len(varlen_calls) == layers


@pytest.mark.parametrize(
    ("channels", "options"), [(12, {}), (16, {"dropout": 0.5}), (16, {"is_causal": False})], ids=str
)
def test_what_one_call_cannot_compute_is_padded(
    channels: int, options: dict[str, Any], varlen_calls: list[dict[str, Any]]
) -> None:
    tokens = [torch.randn(1, 2, 10, channels) for _ in range(3)]
    slots = text_slots(np.array([[0, 1, 2, 0, 1, 2, 3, 4, 5, 6]]), "cpu")
    packed_attention.packed_attention(torch.nn.Module(), *tokens, None, slots=slots, **options)
    assert not varlen_calls
    packed_attention.packed_attention(torch.nn.Module(), *(part[..., :8] for part in tokens), None, slots=slots)
    assert len(varlen_calls) == 1


def test_a_scale_is_that_of_the_model(varlen_calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [torch.randn(1, 2, 10, 8) for _ in range(3)]
    slots = text_slots(np.array([[0, 1, 2, 0, 1, 2, 3, 4, 5, 6]]), "cpu")

    def attend(**options: Any) -> torch.Tensor:
        return packed_attention.packed_attention(torch.nn.Module(), *tokens, None, slots=slots, **options)[0]

    scaled, plain = attend(scaling=0.9), attend()
    assert len(varlen_calls) == 2 and not torch.allclose(scaled, plain)
    monkeypatch.setattr(packed_attention, "can_use_flash_attention", lambda parameters: False)
    assert torch.allclose(scaled, attend(scaling=0.9), atol=1e-6)


def test_a_cpu_has_no_variable_length_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "varlen_attn", None)  # not to be called
    slots = text_slots(np.array([[0, 1, 0]]), "cpu")
    for dtype in (torch.float32, torch.bfloat16):
        tokens = [torch.randn(1, 2, 3, 8, dtype=dtype) for _ in range(3)]
        output, _ = packed_attention.packed_attention(torch.nn.Module(), *tokens, None, slots=slots)
        assert output.shape == (1, 3, 2, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_known_architectures_keep_texts_apart(kind: str) -> None:
    assert packing_refusal(MODELS[kind]) is None
    assert packing_difference(MODELS[kind], (100, 60, 30)) < 1e-4


def test_the_probe_sees_attention_across_texts() -> None:
    """A model that takes a row for one text, as one with a mask of its own would."""
    leaky = random_model("llama", tied=True)
    inner = leaky.forward

    def forward(input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **options: object) -> object:
        if "slots" in options:
            options["slots"] = text_slots(np.arange(input_ids.numel()).reshape(input_ids.shape), "cpu")
        return inner(input_ids, position_ids=position_ids, **options)

    leaky.forward = forward
    refusal = packing_refusal(leaky)
    assert refusal is not None and "losses differ" in refusal


def test_the_probe_sees_a_window_that_packed_attention_does_not_know_of() -> None:
    """The window is longer than the probe's texts, so it is shortened for the probe, and put back."""
    blind = random_model("gemma3", tied=True, sliding_window=64)
    for layer in blind.model.layers:
        attention = layer.self_attn
        attention.sliding_window = None  # the mask of padded rows follows from the config
    refusal = packing_refusal(blind)
    assert refusal is not None and "losses differ" in refusal
    assert blind.config.sliding_window == 64 and blind.config._attn_implementation == "sdpa"
    assert packing_refusal(random_model("gemma3", tied=True, sliding_window=64)) is None


def test_a_model_whose_attention_is_its_own_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = random_model("llama", tied=True)
    monkeypatch.setattr(closed, "set_attn_implementation", lambda name: None)  # what transformers does, with a warning
    assert packing_refusal(closed) == "LlamaForCausalLM: its attention cannot be replaced"


def test_a_recurrent_model_is_not_packed() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 50}
    refusal = packing_refusal(MambaForCausalLM(MambaConfig(**sizes)))
    assert refusal == "MambaForCausalLM takes no position ids"


def choose(wanted: str, lengths: list[int], refusal: str | None = None, accumulation: int = 1) -> Layout:
    rows = TokenRows.of([[1] * (length + 1) for length in lengths])
    return choose_layout(
        wanted,
        refusal=refusal,
        schedule=one_step(rows),
        num_inputs=rows.lengths.num_inputs,
        world_size=1,
        arithmetic=Arithmetic(per_token=1e5, per_pair=1e3),
        where="run r",
        accumulation=accumulation,
    )


def test_each_part_of_a_batch_is_a_packed_row() -> None:
    assert choose("packed", [10, 9, 8, 7], accumulation=2).rows == 2
    held = TokenRows.of([[1] * (length + 1) for length in (10, 9, 8, 7)])
    (batch,) = batches(held, Layout("packed", 2))
    assert batch.labels.shape == (2, 17)  # 10 and 7, 9 and 8: parts of like sizes
    (batch,) = batches(held, Layout("packed", 6))  # more parts than texts: some have nothing to learn
    assert (batch.labels != IGNORED).any(axis=1).sum() == 4 and len(batch.labels) == 6


def test_packed_texts_count_as_the_rows_that_their_tokens_fill() -> None:
    rows = TokenRows.of([[1] * (length + 1) for length in (10, 2, 2, 3, 2)])
    inputs = rows.lengths.num_inputs

    def most(layout: Layout, world_size: int = 1, accumulation: int = 1) -> int:
        sizes = {"world_size": world_size, "accumulation": accumulation, "row_tokens": 10}
        return most_rows(one_step(rows), inputs, layout, **sizes)

    assert (most(Layout("padded")), most(Layout("padded"), 2), most(Layout("padded"), 2, 2)) == (5, 3, 2)
    assert (most(Layout("packed")), most(Layout("packed"), 2), most(Layout("packed", 2), 1, 2)) == (2, 1, 1)


def test_the_layout_follows_from_the_lengths() -> None:
    unlike, alike = [5, 7, 9, 12, 20, 30, 60, 6], [32] * 8
    assert choose("auto", unlike).name == "packed"
    assert "0." in choose("auto", unlike).why
    assert choose("auto", alike).name == "padded"
    assert choose("padded", unlike).name == "padded"
    assert choose("packed", alike).name == "packed"


def test_where_packing_leaks_auto_pads_and_packed_is_refused() -> None:
    layout = choose("auto", [5, 60], refusal="it leaks")
    assert layout.name == "padded" and "it leaks" in layout.why
    with pytest.raises(InputError, match="it leaks"):
        choose("packed", [5, 60], refusal="it leaks")


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_counts_the_weights_that_are_multiplied(kind: str) -> None:
    tied, untied = (arithmetic_of(random_model(kind, tied=tied).config) for tied in (True, False))
    assert tied == untied  # the output layer is multiplied with in both, the table of embeddings only looked up
    assert tied.per_pair == 4 * 64 * 2
