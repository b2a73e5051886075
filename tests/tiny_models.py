"""Small random models of several architectures, and what plain transformers says of their texts."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from data.records import CheckpointRef, ScoreItem

WORDS = [f"w{i}" for i in range(120)]
VOCABULARY = ["<unk>", "<eos>", "\n", *WORDS]
WINDOW = 256
CONTEXT = " ".join(Random(1).choices(WORDS, k=200))
# Wide weights, so that a model's choices are not all alike.
SHARED = {"vocab_size": len(VOCABULARY), "bos_token_id": None, "eos_token_id": 1, "initializer_range": 0.2}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "max_position_embeddings": WINDOW}


def make_model(folder: Path, seed: int, *, tied: bool, kind: str = "llama", num_layers: int = 2) -> Path:
    """A random model with a word-level tokenizer: the words "w0" to "w119", the line end, and an end token."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(" +"), behavior="removed")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(seed)
    random_model(kind, tied=tied, num_layers=num_layers).save_pretrained(folder)
    return folder


def random_model(kind: str, *, tied: bool, num_layers: int = 2, sliding_window: int = 64) -> PreTrainedModel:
    """Random weights of an architecture; `sliding_window` is that of Gemma's first layers."""
    options = {**SHARED, "tie_word_embeddings": tied}
    if kind == "gpt2":
        sizes = {"n_embd": 64, "n_inner": 96, "n_head": 2, "n_positions": WINDOW, "n_layer": num_layers}
        return GPT2LMHeadModel(GPT2Config(**sizes, **options))
    options |= {**SIZES, "num_hidden_layers": num_layers}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**options))
    options |= {"num_key_value_heads": 1, "head_dim": 32}
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**options))
    if kind == "gemma2":  # scores above the cap, so that capping them shows
        capped = {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 1}
        return Gemma2ForCausalLM(Gemma2Config(**options, **capped, sliding_window=sliding_window))
    layers = ["sliding_attention"] * (num_layers - 1) + ["full_attention"]
    gemma = {"layer_types": layers, "sliding_window": sliding_window, "query_pre_attn_scalar": 32}
    return Gemma3ForCausalLM(Gemma3TextConfig(**options, **gemma))


def checkpoint(folder: Path) -> CheckpointRef:
    """The folder as a checkpoint."""
    return CheckpointRef(folder.name, str(folder), folder.name, "", 0)


def plain_scores(
    folder: Path, items: Sequence[ScoreItem], model: torch.nn.Module | None = None
) -> list[list[tuple[list[float], bool]]]:
    """Per item and continuation, each token's log-probability and whether all are the likeliest; one pass for each."""
    model = (model or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = []
    for item in items:
        row = []
        for continuation in item.continuations:
            before = tokenizer(item.context + item.prompt)["input_ids"]
            ids = tokenizer(item.context + item.prompt + item.joiner + continuation)["input_ids"]
            count = len(ids) - len(before)
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, -count - 1 : -1]
            wanted = torch.tensor(ids[-count:])
            chosen = logits.log_softmax(-1)[range(count), wanted]
            row.append((chosen.tolist(), bool((logits.argmax(-1) == wanted).all())))
        scores.append(row)
    return scores
