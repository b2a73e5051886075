"""Memory: no rank has a whole copy at stage 3, what is refused is refused once, and precision stays where it must."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_runs import ROOT, losses, make_run, make_world, needs_too_much, torchrun, train_alone
from transformers import AutoModelForCausalLM, LlamaConfig

from data.errors import InputError
from train.engine.checkpoint import read_ref
from train.engine.export import WeightsWriter
from train.engine.load import read_part
from train.engine.zero_engine import WEIGHT, _torch_optimizer, full_tensors, join_group, start_engine
from train.model.objective import attach_loss
from train.run.loop import OutOfMemoryError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("memory"))


LOAD = """
import json, sys
from pathlib import Path
import torch, torch.distributed as dist
from train.engine.load import load_sharded
from train.engine.zero_config import zero_config
from train.engine.zero_engine import join_group

def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

join_group()
folder = Path(sys.argv[1])
config = zero_config(3, 1, 1.0, bf16=False, on_gpu=False)
load_sharded(folder / "small", torch.float32, "sdpa", config)  # imports, and what the first use allocates
before = peak()
model = load_sharded(folder / "large", torch.float32, "sdpa", config)
shards = sum(parameter.ds_tensor.numel() * 4 for parameter in model.parameters())
(folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps({"grown": peak() - before, "shards": shards}))
"""


def test_at_stage_3_a_rank_reads_its_own_part_of_every_tensor(tmp_path: Path) -> None:
    for name, width in (("small", 64), ("large", 1024)):
        config = LlamaConfig(
            vocab_size=4000, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=6, num_attention_heads=8
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
    (tmp_path / "load.py").write_text(LOAD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(tmp_path / "load.py"), str(tmp_path)], check=True, cwd=ROOT, env=environment)
    whole = (tmp_path / "large" / "model.safetensors").stat().st_size
    for rank in range(2):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert found["shards"] == pytest.approx(whole / 2, rel=0.01)
        assert found["grown"] < 0.6 * whole, f"{found} of {whole}"


@pytest.mark.parametrize("shape", [(7, 3, 2), (5,), ()])
def test_any_part_of_a_stored_tensor_can_be_read(shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.randn(shape)
    save_file({"t": tensor}, tmp_path / "t.safetensors")
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        for start in range(tensor.numel() + 1):
            for stop in range(start, tensor.numel() + 1):
                assert torch.equal(read_part(file, "t", start, stop), tensor.flatten()[start:stop])


def test_weights_are_written_in_files_of_bounded_size(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)
    )
    for most_bytes, count in ((1 << 30, 1), (20_000, 9)):
        folder = tmp_path / str(count)
        folder.mkdir()
        writer = WeightsWriter(folder, most_bytes)
        for name, tensor in model.state_dict().items():
            writer.add(name, tensor)
        writer.close()
        model.config.save_pretrained(folder)
        assert len(list(folder.glob("*.safetensors"))) == count
        found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_files_without_a_tensor_of_the_model_are_refused_at_stage_3(world: Path, tmp_path: Path) -> None:
    other = make_world(tmp_path / "other")
    path = other / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["somewhere.else"] = tensors.pop("model.norm.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        train_alone(make_run(other, tmp_path / "run", stage=3))


def test_running_out_of_memory_is_one_message_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"(?s)ran out of memory.*run much.*activation_checkpointing"):
        train_alone(needs_too_much(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
        ),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at another call"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["allocator", "driver", "library"],
)
def test_running_out_of_a_gpus_memory_is_the_same_message(
    world: Path, tmp_path: Path, error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*words: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr("train.run.loop.take_step", step)
    with pytest.raises(
        OutOfMemoryError, match=r"(?s)ran out of memory: CUDA.*run run.*activation_checkpointing"
    ) as found:
        train_alone(make_run(world, tmp_path / "run"))
    assert "asynchronously" not in str(found.value)


@pytest.fixture(scope="module")
def in_bf16(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], list[float]]:
    """The losses in bf16 by stage and number of ranks."""
    folder, found = tmp_path_factory.mktemp("bf16"), {}
    for ranks in (1, 2):
        runs = [
            make_run(world, folder / f"{stage}-{ranks}", stage=stage, precision="bfloat16", accumulation=2)
            for stage in range(4)
        ]
        torchrun(runs, folder / f"ranks-{ranks}", num_ranks=ranks)
        for stage, run in enumerate(runs):
            found[stage, ranks] = losses(read_ref(Path(run.out)))
    return found


def test_the_stage_changes_nothing_in_bf16_but_rounding(in_bf16: dict[tuple[int, int], list[float]]) -> None:
    golden = in_bf16[1, 1]
    assert in_bf16[0, 1] == golden
    for found in in_bf16.values():
        assert found == pytest.approx(golden, abs=2e-2)  # a rounding of bf16 of a loss of 4 is 1.6e-2
        assert math.fsum(found) / len(found) == pytest.approx(math.fsum(golden) / len(golden), abs=4e-3)


@pytest.mark.parametrize("stage", range(4))
def test_nothing_is_learned_before_the_first_step(world: Path, tmp_path: Path, stage: int) -> None:
    """DeepSpeed's own stage 0 in bf16 takes a step without gradients, which decays the weights and counts."""
    join_group()
    run = make_run(world, tmp_path / "run", stage=stage, precision="bfloat16", weight_decay=0.1)
    model = AutoModelForCausalLM.from_pretrained(world / "base", dtype=torch.bfloat16)
    before = {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}
    attach_loss(model)
    engine: Any = start_engine(run, model)
    try:
        for name, _, tensor in full_tensors(engine, kinds=(WEIGHT,)):
            assert torch.equal(tensor.view_as(before[name]), before[name])
        counted = [float(of["step"]) for of in _torch_optimizer(engine).state.values() if "step" in of]
        assert not any(counted)
    finally:
        engine.destroy()
