"""The plan of a training against what really happens: parameters, activations, a run's peak, the paper's figures."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from data.errors import InputError
from train.model.packed_attention import NAME, text_slots
from train.plan.flops import flops_per_token, peak_flops, utilisation
from train.plan.shapes import Shape, read_shape, shape_of
from train.plan.sizing import GIB, Limits, Setup, check_fit, plan, sent_bytes, smallest_stage, trained_parameters

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY, LAYERS, WINDOW = 1000, 3, 256
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
SHARED = {"vocab_size": VOCABULARY, "max_position_embeddings": WINDOW, **SIZES}
WIDE = {**SHARED, "num_key_value_heads": 2, "head_dim": 32}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": WINDOW}
LLAMA_8B = shape_of(
    LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131_072,
    ).to_dict()
)  # fmt: skip
MODELS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHARED, num_key_value_heads=2),
    "llama with biases": LlamaConfig(**SHARED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": MistralConfig(**SHARED, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SHARED, num_key_value_heads=2),
    "qwen3": Qwen3Config(**WIDE),
    "gemma3": Gemma3TextConfig(
        **WIDE, sliding_window=64, layer_types=["sliding_attention"] * (LAYERS - 1) + ["full_attention"]
    ),
    "gpt2": GPT2Config(**GPT2, bos_token_id=None, eos_token_id=None),
    "gpt2 without dropout": GPT2Config(
        **GPT2, n_inner=96, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=None, eos_token_id=None
    ),
}
LARGE = {
    "llama": LlamaConfig(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_key_value_heads=8),
    "qwen3": Qwen3Config(),
    "gemma3": Gemma3TextConfig(),
    "gpt2": GPT2Config(),
}
SETUP = Setup(stage=1, ranks=4, rows=2, row_tokens=100, on_gpu=True)


def shape_on_disk(config: PreTrainedConfig, folder: Path) -> Shape:
    config.save_pretrained(folder)
    return read_shape(folder)


@pytest.mark.parametrize("config", [*MODELS.values(), *LARGE.values()], ids=[*MODELS, *(f"large {k}" for k in LARGE)])
def test_parameters_are_those_of_the_real_model(config: PreTrainedConfig, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_on_disk(config, tmp_path)
    assert shape.parameters == model.num_parameters()
    linears = [(linear.inputs, linear.outputs) for linear in shape.linears]
    weights = {tuple(parameter.shape) for parameter in model.parameters()}
    assert all(pair in weights or pair[::-1] in weights for pair in linears)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_what_autograd_keeps(name: str, dtype: torch.dtype, packed: bool, tmp_path: Path) -> None:
    rows, tokens = 4, 128
    model = AutoModelForCausalLM.from_config(MODELS[name], dtype=dtype, attn_implementation="sdpa").train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # the tensors are held, so that no two have one address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    options: dict[str, Any] = {}
    if packed:
        positions = torch.arange(tokens).repeat(rows)[None]
        options = {"position_ids": positions, "slots": text_slots(positions.numpy(), "cpu")}
        model.set_attn_implementation(NAME)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        input_ids = torch.randint(0, VOCABULARY, (1, rows * tokens) if packed else (rows, tokens))
        model(input_ids=input_ids, **options, use_cache=False)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    shape, size = shape_on_disk(MODELS[name], tmp_path), dtype.itemsize
    layer = shape.layer_bytes(tokens, size, packed=packed, on_gpu=False)
    assert (shape.layers * layer + shape.outer_bytes(size)) * rows * tokens == pytest.approx(real, rel=0.1)


PEAK = """
import json, sys
from pathlib import Path
import torch
from data.records import Document
from data.store import write_folder
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.loop import finetune
from tests.test_sizing import make_large_vocabulary

folder, stage = Path(sys.argv[1]), int(sys.argv[2])
make_large_vocabulary(folder / "base")
texts = [" ".join(f"w{(i * 31 + j) % 8000}" for j in range(200)) for i in range(8)]
write_folder(folder / "documents", Document, [Document(f"d{i}", text, "w") for i, text in enumerate(texts)])

def train(name, base, num_steps):
    finetune(FinetuneRun(name=name, base=str(base), sources=(TextSource(str(folder / "documents")),),
        out=str(folder / name), num_steps=num_steps, batch_size=8, learning_rate=1e-3, stage=stage), lambda row: None)

def peak():
    # not ru_maxrss: a child inherits that of the process that started it, which may have been larger
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

train("small", folder / "base" / "small", 1)  # imports, the process group, DeepSpeed: the process without a model
before = peak()
train("large", folder / "base" / "large", 2)
print(json.dumps({"before": before, "after": peak()}))
"""


def make_large_vocabulary(folder: Path) -> None:
    """Two models with the words w0 to w7999: a tiny one, and one of 21 million parameters whose logits are large."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(8000)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    for name, width in (("small", 8), ("large", 512)):
        config = LlamaConfig(
            vocab_size=8000, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=8, num_attention_heads=8,
            max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(folder / name)


def test_a_real_run_peaks_where_the_plan_says(tmp_path: Path) -> None:
    stage = 1
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), str(stage)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout.splitlines()[-1])
    setup = Setup(stage=stage, ranks=1, rows=8, row_tokens=199, on_gpu=False, packed=False)
    planned = plan(read_shape(tmp_path / "base" / "large"), setup)
    grown = measured["after"] - measured["before"]
    assert 0.5 < (planned.total - planned.process) / grown < 2, (planned, grown)


def test_model_states_are_those_of_the_zero_paper() -> None:
    """Its table, with gradients in 32 bits: 18 / N bytes a parameter if all is divided, and 4 more bytes below stage 2.

    Stage 0 is computed as stage 1 in 16 bits.
    """
    shape, ranks = LLAMA_8B, 64
    wanted = {0: 8 + 12 / ranks, 1: 8 + 12 / ranks, 2: 2 + 16 / ranks, 3: 18 / ranks}
    for stage, per_parameter in wanted.items():
        found = plan(shape, Setup(stage=stage, ranks=ranks, rows=1, row_tokens=1, on_gpu=True))
        states = found.weights + found.gradients + found.optimizer
        assert states / shape.parameters == pytest.approx(per_parameter, rel=1e-3)


def test_communication_is_that_of_the_zero_paper() -> None:
    shape, setup = LLAMA_8B, dataclasses.replace(SETUP, ranks=1000, bf16=False)
    sent = [sent_bytes(shape, dataclasses.replace(setup, stage=stage)) for stage in range(4)]
    model = 4 * shape.parameters * 999 / 1000
    assert [numbers / model for numbers in sent] == pytest.approx([2, 2, 2, 3], rel=1e-6)
    assert sent_bytes(shape, dataclasses.replace(SETUP, ranks=1)) == 0
    twice = [sent_bytes(shape, dataclasses.replace(setup, stage=s, accumulation=2)) for s in range(4)]
    assert [numbers / model for numbers in twice] == pytest.approx([2, 2, 3, 6], rel=1e-6)
    # In 16 bits, weights are sent in these and gradients in 32; stages 0 and 1 sum them on all ranks.
    halves = [sent_bytes(shape, dataclasses.replace(setup, stage=s, bf16=True)) for s in range(4)]
    assert [numbers / model for numbers in halves] == pytest.approx([2.5, 2.5, 1.5, 2], rel=1e-6)


def test_each_means_saves_what_it_is_meant_to_save() -> None:
    shape = LLAMA_8B
    base = plan(shape, SETUP)
    offloaded = plan(shape, dataclasses.replace(SETUP, offload="cpu"))
    assert (offloaded.optimizer, offloaded.weights) == (0, base.weights)
    assert offloaded.host - base.host == base.optimizer
    whole, on_disk = (plan(shape, dataclasses.replace(SETUP, stage=3, offload=to)) for to in ("cpu", "nvme"))
    assert whole.weights == whole.optimizer == on_disk.optimizer == 0
    assert on_disk.host == base.host < whole.host
    recomputed = plan(shape, dataclasses.replace(SETUP, checkpointing=True))
    assert recomputed.activations < base.activations / 5 and recomputed.logits == base.logits
    adapters = dataclasses.replace(SETUP, adapter_rank=16)
    assert trained_parameters(shape, adapters) == 41_943_040
    light = plan(shape, adapters)
    assert light.gradients + light.optimizer < 0.02 * (base.gradients + base.optimizer)
    assert light.weights >= base.weights
    assert base.logits == 2 * 100 * 128_256 * 10  # bfloat16, and twice float32
    long = plan(shape, dataclasses.replace(SETUP, row_tokens=8000))
    assert long.logits == 523 * 128_256 * 10  # as many labels as are computed at once


def test_the_smallest_stage_that_fits_is_chosen_and_a_larger_need_is_refused_with_numbers() -> None:
    shape = LLAMA_8B
    needs = [plan(shape, dataclasses.replace(SETUP, stage=stage)).total for stage in range(4)]
    assert needs == sorted(needs, reverse=True) and needs[0] == needs[1]
    for stage, need in enumerate(needs[1:], start=1):
        assert smallest_stage(shape, SETUP, Limits(int(need / 0.95) + 1)) == stage
    assert smallest_stage(shape, SETUP, Limits(needs[-1])) is None
    with pytest.raises(InputError, match=r"stage 1 on 4 ranks needs 8\d GiB a rank .*optimizer.* 40 GiB") as refusal:
        check_fit(shape, SETUP, Limits(40 * GIB), "run r")
    assert refusal.value.hint == "recompute activations and use stage 3"
    assert check_fit(shape, SETUP, Limits(100 * GIB), "run r") == plan(shape, SETUP)


def test_the_memory_of_the_node_is_checked_beside_that_of_the_gpu() -> None:
    """Offloaded states of eight ranks lie in the memory of one host."""
    offloaded = dataclasses.replace(SETUP, offload="cpu")
    need = plan(LLAMA_8B, offloaded).host
    assert check_fit(LLAMA_8B, offloaded, Limits(100 * GIB, int(need / 0.95) + 1), "run r").host == need
    with pytest.raises(InputError, match="node's memory"):
        check_fit(LLAMA_8B, offloaded, Limits(100 * GIB, need), "run r")
    assert smallest_stage(LLAMA_8B, offloaded, Limits(100 * GIB, need)) in (2, 3, None)


def test_unknown_architectures_and_long_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='architecture "bloom"'):
        shape_of({"model_type": "bloom"})
    with pytest.raises(InputError, match=r"config\.json is missing"):
        read_shape(tmp_path)
    with pytest.raises(InputError, match="window"):
        plan(shape_on_disk(MODELS["gpt2"], tmp_path), dataclasses.replace(SETUP, row_tokens=WINDOW + 1))


# ---- how much of the hardware is used


def test_flops_are_those_of_the_counted_products() -> None:
    """Torch counts the products of a forward and a backward pass of the real model."""
    from torch.utils.flop_counter import FlopCounterMode

    rows, tokens = 2, 64
    model = AutoModelForCausalLM.from_config(MODELS["llama"], attn_implementation="eager").train()
    with FlopCounterMode(display=False) as counter:
        input_ids = torch.randint(0, VOCABULARY, (rows, tokens))
        model(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
    shape = shape_of(MODELS["llama"].to_dict())
    whole = flops_per_token(shape, 2 * tokens)  # eager attention computes the half above the diagonal, too
    assert counter.get_total_flops() == pytest.approx(whole * rows * tokens, rel=0.02)


def test_utilisation_needs_a_known_device_and_a_known_architecture() -> None:
    config = MODELS["llama"].to_dict()
    per_token = flops_per_token(shape_of(config), 0)
    assert utilisation(config, "NVIDIA H100 80GB HBM3", 2, 989e12 / per_token) == pytest.approx(0.5)
    assert utilisation(config, "Quadro P400", 2, 1e6) is None
    assert utilisation({"model_type": "bloom"}, "NVIDIA H100 80GB HBM3", 2, 1e6) is None


@pytest.mark.parametrize(
    ("device", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", 70),
    ],
)
def test_peaks_are_found_by_name(device: str, teraflops: float) -> None:
    assert peak_flops(device) == teraflops * 1e12
    assert peak_flops(f"{device} MIG 1g.10gb") is None
