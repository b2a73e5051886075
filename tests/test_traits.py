"""What architectures support: their own attention, packed rows, logits in parts; losses are those of plain models."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SHARED, SIZES, random_model
from training_runs import encode, losses, make_run, make_world, read_texts, train_alone
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    CohereConfig,
    GPTJConfig,
    GPTNeoConfig,
    GptOssConfig,
    GraniteConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedModel,
)

import train.model.objective
from benchmarks.finetunings import batch_of, loss_and_gradients
from train.model.objective import attach_loss, logits_of, summed_loss, targets_of
from train.model.traits import traits_of

GPT = {"n_embd": 64, "n_layer": 2, "n_head": 2}
CONFIGS = {
    "gptj": GPTJConfig(**GPT, rotary_dim=16, **SHARED),
    "bloom": BloomConfig(hidden_size=64, n_layer=2, n_head=2, **SHARED),
    "gpt-neo": GPTNeoConfig(
        hidden_size=64, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=8, **SHARED
    ),
    "opt": OPTConfig(
        hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=64, pad_token_id=0,
        **SHARED,
    ),
    "granite": GraniteConfig(**SIZES, num_hidden_layers=2, logits_scaling=7.0, **SHARED),
    "cohere": CohereConfig(**SIZES, num_hidden_layers=2, logit_scale=0.3, **SHARED),
    "mixtral": MixtralConfig(**SIZES, num_hidden_layers=2, num_key_value_heads=1, num_local_experts=2, **SHARED),
}  # fmt: skip
KINDS = ("llama", "qwen3", "gemma2", "gemma3", "gpt2", *CONFIGS)
ROWS = [[(7 * i + j * j) % 99 + 3 for j in range(length)] for i, length in enumerate((40, 33, 12, 9, 2))]


def model_of(kind: str) -> PreTrainedModel:
    if kind not in CONFIGS:
        return random_model(kind, tied=True, sliding_window=8)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_in_parts_is_that_of_all_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With soft caps and scales of logits; parts of 7 labels each, whose logits the backward pass computes again."""
    model, batch = model_of(kind).eval(), batch_of(ROWS, "padded")
    model.set_attn_implementation(traits_of(model.config).attention)
    assert traits_of(model.config).chunked
    whole, parts = model, copy.deepcopy(model)
    attach_loss(whole, chunked=False)
    attach_loss(parts)
    monkeypatch.setattr(train.model.objective, "LOGITS_AT_ONCE", 7 * 4 * model.config.vocab_size)
    (loss, gradients), (wanted, of_whole) = loss_and_gradients(parts, batch), loss_and_gradients(whole, batch)
    assert loss == pytest.approx(wanted, rel=1e-6)
    assert torch.allclose(gradients, of_whole, rtol=1e-4, atol=1e-5 * float(of_whole.abs().max()))


def test_the_memory_of_a_loss_in_parts_does_not_grow_with_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    attach_loss(model)
    largest = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.shape[0] if tensor.dim() == 2 and tensor.shape[1] == vocabulary else 0)
        return tensor

    vocabulary, batch = model.config.vocab_size, batch_of(ROWS, "padded")
    num_labels = len(targets_of(batch, "cpu").labels)
    for in_a_part, kept in ((num_labels, num_labels), (5, 0)):
        largest = 0
        monkeypatch.setattr(train.model.objective, "LOGITS_AT_ONCE", in_a_part * 4 * vocabulary)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss_and_gradients(model, batch)
        assert largest == kept


@pytest.mark.parametrize(
    ("kind", "attention", "packed"),
    [
        *[(kind, "sdpa", True) for kind in ("llama", "qwen3", "gemma3", "gpt2", "opt", "granite", "cohere", "mixtral")],
        ("gemma2", "eager", False),
        *[(kind, "eager", False) for kind in ("gptj", "bloom", "gpt-neo")],
    ],
)
def test_fused_attention_is_used_where_it_is_what_the_model_defines(kind: str, attention: str, packed: bool) -> None:
    traits = traits_of(model_of(kind).config)
    assert traits.attention == attention
    assert (traits.packing_refusal is None) is packed


def test_models_with_sinks_or_without_attention_are_trained_eagerly() -> None:
    sinks = GptOssConfig(
        **SIZES, num_hidden_layers=2, num_key_value_heads=1, head_dim=32, num_local_experts=2, **SHARED
    )
    for config in (sinks, MambaConfig(hidden_size=32, num_hidden_layers=2, **SHARED)):
        assert traits_of(config).attention == "eager"
        assert "eager" in (traits_of(config).packing_refusal or "")


def test_a_large_model_is_judged_by_a_small_one() -> None:
    config = copy.deepcopy(random_model("gemma3", tied=True, num_layers=2).config)
    config.num_hidden_layers, config.vocab_size = 62, 262_144
    config.layer_types = [*["sliding_attention"] * 5, "full_attention"] * 10 + ["sliding_attention"] * 2
    assert traits_of(config).packing_refusal is None


@pytest.mark.parametrize("kind", ["gemma2", "gptj", "bloom", "gpt-neo"])
def test_a_run_begins_with_the_loss_of_the_model_as_it_is_defined(kind: str, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    model = model_of(kind)
    model.save_pretrained(world / "base")
    run = make_run(world, tmp_path / "run", num_steps=1, batch_size=24, warmup_steps=0)
    (loss,) = losses(train_alone(run))
    eager = AutoModelForCausalLM.from_pretrained(world / "base", attn_implementation="eager")
    assert loss == pytest.approx(mean_loss(eager, run), abs=1e-5)
    if kind == "gemma2":
        fused = AutoModelForCausalLM.from_pretrained(world / "base", attn_implementation="sdpa")
        assert abs(loss - mean_loss(fused, run)) > 1e-3  # the soft cap is lost there


def mean_loss(model: Any, run: Any) -> float:
    """Of all texts of a run, each alone."""
    rows = encode(read_texts(run.sources), AutoTokenizer.from_pretrained(run.base))
    with torch.inference_mode():
        sums = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() * (len(row) - 1) for row in rows]
    return sum(sums) / sum(len(row) - 1 for row in rows)


def test_logits_of_hidden_states_leave_the_model_as_it_was() -> None:
    model = model_of("llama")
    decoder = model.model
    with torch.no_grad():
        hidden = decoder(input_ids=torch.arange(9).unsqueeze(0))[0]
        logits = logits_of(model, hidden.squeeze(0))
    assert model.model is decoder and logits.shape == (9, model.config.vocab_size)
    assert torch.equal(model.lm_head(hidden).squeeze(0), logits)


def test_a_batch_without_labels_has_no_loss_and_gradients_of_zero() -> None:
    model, batch = model_of("llama"), batch_of(ROWS, "padded")
    attach_loss(model)
    batch.labels[:] = -100
    loss, gradients = loss_and_gradients(model, batch)
    assert loss == 0.0 and not gradients.any()
    assert summed_loss(torch.zeros(0, 5), targets_of(batch, "cpu")) == 0.0
