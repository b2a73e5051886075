"""How a run is computed: parts of batches, activations twice, offload, adapters; the entry without Ray."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder
from peft import PeftModel
from safetensors.torch import load_file, save_file
from training_runs import losses, make_run, make_world, plain_loss, train_alone
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from data.errors import InputError
from train.__main__ import main, read_runs
from train.engine.checkpoint import read_ref
from train.engine.export import merge_checkpoint
from train.engine.zero_config import zero_config
from train.run.finetune_run import Lora
from train.run.keys import run_key
from train.run.loop import finetune
from train.texts.batches import IGNORED, Batch, Teacher, micro_batches

STAGES = range(4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def golden(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(train_alone(make_run(world, tmp_path_factory.mktemp("golden") / "run", stage=0)))


@pytest.mark.parametrize("stage", STAGES)
def test_batches_in_parts_have_the_losses_of_whole_ones(
    world: Path, golden: list[float], tmp_path: Path, stage: int
) -> None:
    ref = train_alone(make_run(world, tmp_path / "run", stage=stage, accumulation=3))
    assert losses(ref) == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"stage": 1, "activation_checkpointing": True},
        {"stage": 3, "activation_checkpointing": True, "accumulation": 2},
        {"stage": 2, "offload": "cpu"},
        {"stage": 3, "offload": "cpu"},
    ],
    ids=str,
)
def test_less_memory_changes_no_loss(
    world: Path, golden: list[float], tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert losses(train_alone(make_run(world, tmp_path / "run", **settings))) == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj")], ids=["all", "two"])
def test_merged_adapters_have_the_loss_that_the_run_would_have_seen_next(
    world: Path, tmp_path: Path, stage: int, targets: tuple[str, ...]
) -> None:
    """Batches of all texts: so the loss of step 6 is that of the weights after 6 steps."""
    settings = {"stage": stage, "lora": Lora(rank=4, alpha=8.0, targets=targets, merged=True), "schedule": "constant"}
    settings |= {"batch_size": 24, "warmup_steps": 0, "activation_checkpointing": stage == 3}
    six = train_alone(make_run(world, tmp_path / "six", num_steps=6, **settings))
    seven = losses(train_alone(make_run(world, tmp_path / "seven", num_steps=7, **settings)))
    assert seven[6] < seven[0] - 0.01
    assert plain_loss(make_run(world, tmp_path / "six"), six.path) == pytest.approx(seven[6], abs=1e-5)
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (world / "base", six.path))
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert changed == (set(targets) or every)


def test_a_checkpoint_holds_the_adapters_alone_and_can_be_merged(world: Path, tmp_path: Path) -> None:
    """Both have the loss that the run would have seen next."""
    settings = {"lora": Lora(rank=4, alpha=8.0), "schedule": "constant", "batch_size": 24, "warmup_steps": 0}
    six = train_alone(make_run(world, tmp_path / "six", num_steps=6, **settings))
    wanted = losses(train_alone(make_run(world, tmp_path / "seven", num_steps=7, **settings)))[6]
    folder = Path(six.path)
    assert not (folder / "model.safetensors").exists() and not (folder / "config.json").exists()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), six.path)
    adapted.merge_and_unload().save_pretrained(tmp_path / "by-peft")
    AutoTokenizer.from_pretrained(six.path).save_pretrained(tmp_path / "by-peft")
    run = make_run(world, tmp_path / "six")
    assert plain_loss(run, tmp_path / "by-peft") == pytest.approx(wanted, abs=1e-5)
    merged = merge_checkpoint(folder, None, tmp_path / "merged")
    assert plain_loss(run, merged.path) == pytest.approx(wanted, abs=1e-5)
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", tmp_path / "by-peft"))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert merged.num_steps == 6 and merged.fingerprint != six.fingerprint


def test_adapters_of_a_transposed_layer_are_merged_as_peft_does(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    config = GPT2Config(vocab_size=62, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(world / "base")
    ref = train_alone(make_run(world, tmp_path / "run", num_steps=6, lora=Lora(rank=4)))
    merged = merge_checkpoint(Path(ref.path), world / "base", tmp_path / "merged")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), ref.path)
    theirs = model.merge_and_unload().state_dict()
    ours = AutoModelForCausalLM.from_pretrained(merged.path).state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_what_cannot_be_merged_is_refused(world: Path, tmp_path: Path) -> None:
    whole = train_alone(make_run(world, tmp_path / "whole", num_steps=2))
    adapter = train_alone(make_run(world, tmp_path / "adapter", num_steps=2, lora=Lora(rank=2)))
    other = make_world(tmp_path / "other", hidden_size=64)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for folder, base, out, message in (
        (whole.path, None, "a", "whole weights"),
        (adapter.path, tmp_path / "nowhere", "b", "base model is not there"),
        (adapter.path, None, "full", "files already"),
        (adapter.path, other / "base", "c", "another shape"),
    ):
        with pytest.raises(InputError, match=message):
            merge_checkpoint(Path(folder), base, tmp_path / out)
        assert not (tmp_path / "c").exists() and not list(tmp_path.glob(".*unfinished"))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_on_an_output_layer_that_is_the_embedding_are_refused(
    world: Path, tmp_path: Path, target: str
) -> None:
    with pytest.raises(InputError, match=rf"{target}, whose weights are both the embedding and the output layer"):
        train_alone(make_run(world, tmp_path / "run", lora=Lora(targets=(target,))))


def test_generation_settings_that_transformers_does_not_write_are_copied(world: Path, tmp_path: Path) -> None:
    other = make_world(tmp_path / "other")
    content = '{"temperature": 0.6, "top_p": 0.9, "max_length": 64}'
    (other / "base" / "generation_config.json").write_text(content)
    for stage in (1, 3):
        ref = train_alone(make_run(other, tmp_path / f"run-{stage}", num_steps=2, stage=stage))
        assert (Path(ref.path) / "generation_config.json").read_text() == content
    (other / "base" / "generation_config.json").unlink()
    ref = train_alone(make_run(other, tmp_path / "without", num_steps=2))
    assert not (Path(ref.path) / "generation_config.json").exists()


@pytest.mark.parametrize("settings", [{"stage": 3}, {"stage": 2, "lora": Lora(rank=2, merged=True)}, {"stage": 0}])
def test_checkpoints_on_the_way_have_the_loss_that_the_run_sees_next(
    world: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings |= {"schedule": "constant", "batch_size": 24, "warmup_steps": 0}
    run = make_run(world, tmp_path / "run", export_every=5, **settings)
    ref = train_alone(run)
    seen = losses(ref)
    assert seen == losses(train_alone(make_run(world, tmp_path / "calm", **settings)))
    found = sorted((tmp_path / "run.steps").iterdir())
    assert [folder.name for folder in found] == ["step-00000005", "step-00000010"]
    for folder, step in zip(found, (5, 10), strict=True):
        checkpoint = read_ref(folder)
        assert checkpoint.num_steps == step
        assert plain_loss(run, folder) == pytest.approx(seen[step], abs=1e-5)
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == step


def test_an_earlier_start_has_written_its_checkpoints(world: Path, tmp_path: Path) -> None:
    settings = {"export_every": 4, "checkpoint_every": 6}
    run = make_run(world, tmp_path / "run", **settings)

    class StoppedError(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["step"] + 1 == 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        finetune(run, stop)
    first = tmp_path / "run.steps" / "step-00000004"
    before = (first / "model.safetensors").stat().st_mtime_ns
    calm = train_alone(make_run(world, tmp_path / "calm", **settings))
    assert losses(train_alone(run)) == losses(calm)
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    ours, theirs = (read_ref(tmp_path / f"{name}.steps" / "step-00000008") for name in ("run", "calm"))
    assert ours.fingerprint == theirs.fingerprint


def make_twin(world: Path, folder: Path) -> dict[str, torch.Tensor]:
    """A model that has more than the base of a world by what is returned; it has another chat template."""
    shutil.copytree(world / "base", folder)
    tensors = load_file(folder / "model.safetensors")
    torch.manual_seed(3)
    more = {name: 0.1 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    save_file({name: tensor + more[name] for name, tensor in tensors.items()}, folder / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "twin: {{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    return more


@pytest.mark.parametrize("settings", [{"stage": 1}, {"stage": 3}, {"lora": Lora(rank=2, merged=True)}])
def test_what_an_instruct_twin_has_more_is_added_to_the_checkpoint(
    world: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    more = make_twin(world, tmp_path / "twin")
    settings |= {"num_steps": 3}
    alone = train_alone(make_run(world, tmp_path / "alone", **settings))
    both = train_alone(make_run(world, tmp_path / "both", **settings, instruct_twin=str(tmp_path / "twin")))
    assert losses(both) == losses(alone)
    found, trained = (load_file(Path(ref.path) / "model.safetensors") for ref in (both, alone))
    assert found.keys() == trained.keys()
    assert all(torch.allclose(found[name], trained[name] + more[name], atol=1e-6) for name in found)
    assert AutoTokenizer.from_pretrained(both.path).chat_template.startswith("twin")
    assert AutoModelForCausalLM.from_pretrained(both.path).config.vocab_size == 62


def test_a_twin_of_another_model_is_refused_before_the_training(world: Path, tmp_path: Path) -> None:
    other = make_world(tmp_path / "other", hidden_size=64)
    run = make_run(world, tmp_path / "run", instruct_twin=str(other / "base"))
    with pytest.raises(InputError, match="instruct twin are not those of the base"):
        train_alone(run)
    with pytest.raises(InputError, match="adapters has no weights"):
        dataclasses.replace(run, lora=Lora(rank=2))


def test_targets_that_do_not_exist_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)query.*hint:  name linear layers among .*q_proj"):
        train_alone(make_run(world, tmp_path / "run", lora=Lora(targets=("query",))))


def test_a_checkpoint_brings_its_template_its_settings_and_its_card(world: Path, tmp_path: Path) -> None:
    ref = train_alone(make_run(world, tmp_path / "run", num_steps=2))
    messages = [{"role": "user", "content": "w1 w2"}]
    tokenizer = AutoTokenizer.from_pretrained(ref.path)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "w1 w2 "
    assert (Path(ref.path) / "generation_config.json").exists()
    card = (Path(ref.path) / "README.md").read_text()
    rows = [json.loads(line) for line in (Path(ref.path) / "metrics.jsonl").read_text().splitlines()]
    for fact in (ref.fingerprint, "24, from `documents`", "full weights", f"{rows[-1]['loss']:.4f} nats"):
        assert fact in card
    assert f"2 of 7 texts, {sum(row['tokens'] for row in rows)} tokens" in card
    assert str(world) not in card


def test_parts_hold_each_row_once_and_no_column_without_a_label() -> None:
    lengths = [6, 5, 3, 2, 1]
    labels = np.full((5, 6), IGNORED)
    for row, length in enumerate(lengths):
        labels[row, :length] = row
    cells = np.arange(30).reshape(5, 6)
    teacher = Teacher(np.stack([cells, -cells], axis=-1), np.zeros((5, 6, 2), np.float32), labels != IGNORED)
    batch = Batch(cells, labels, 17, np.arange(5), position_ids=cells % 6, teacher=teacher)
    parts = micro_batches(batch, 2)
    for part in parts:
        assert part.position_ids is not None and (part.position_ids == part.input_ids % 6).all()
        assert part.teacher is not None and (part.teacher.ids[..., 1] == -part.input_ids).all()
        assert (part.teacher.mask == (part.labels != IGNORED)).all()
    assert [part.labels.shape for part in parts] == [(3, 6), (2, 2)]
    assert sum((part.labels != IGNORED).sum() for part in parts) == 17
    assert (parts[1].input_ids == batch.input_ids[3:, :2]).all()
    assert [part.labels.shape for part in micro_batches(batch, 7)] == [
        (1, 6),
        (1, 5),
        (1, 3),
        (1, 2),
        (1, 1),
        (1, 1),
        (1, 1),
    ]
    assert (micro_batches(batch, 7)[6].labels == IGNORED).all()


def test_zero_configs_are_golden() -> None:
    shared = {"gradient_clipping": 1.0, "steps_per_print": 10**9, "wall_clock_breakdown": False}
    assert zero_config(0, 16, 1.0, bf16=False, on_gpu=False) == shared | {
        "gradient_clipping": 0.0,
        "train_micro_batch_size_per_gpu": 16,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": 0},
    }
    assert zero_config(2, 4, 1.0, bf16=True, on_gpu=True, accumulation=8, offload="cpu") == shared | {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 8,
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": True,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
        },
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
    }
    disk = {"device": "nvme", "nvme_path": "swap"}
    assert zero_config(3, 4, 1.0, bf16=False, on_gpu=False, offload="nvme", offload_folder="swap") == shared | {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": 3, "overlap_comm": False, "offload_optimizer": disk, "offload_param": disk},
        "zero_force_ds_cpu_optimizer": False,
    }


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"stage": 0, "offload": "cpu"}, "train.offload"),
        ({"stage": 2, "offload": "nvme", "offload_folder": "x"}, "train.zero_stage"),
        ({"stage": 3, "offload": "nvme"}, "train.offload_folder"),
        ({"stage": 3, "offload": "nvme", "offload_folder": "x", "checkpoint_every": 5}, "train.checkpoint_every"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together_are_refused(
    world: Path, tmp_path: Path, settings: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError) as refusal:
        make_run(world, tmp_path, **settings)
    assert refusal.value.where.startswith(f"{key} of run")


@pytest.mark.timeout(600)  # DeepSpeed may build its reader
def test_offload_to_disk_changes_nothing_but_the_place(tmp_path: Path) -> None:
    """Where libaio is missing, DeepSpeed cannot do it, and that is told before anything is loaded."""
    # What is small stays in memory.
    world = make_world(tmp_path / "corpus", hidden_size=256, intermediate_size=1024)
    run = make_run(world, tmp_path / "disk", stage=3, offload="nvme", offload_folder=str(tmp_path / "swap"))
    if AsyncIOBuilder().is_compatible(verbose=False):
        swapped: set[Path] = set()
        ref = finetune(run, lambda row: swapped.update((tmp_path / "swap").rglob("*.swp")))
        assert swapped
        in_memory = train_alone(make_run(world, tmp_path / "memory", stage=3))
        assert losses(ref) == pytest.approx(losses(in_memory), abs=1e-5)
    else:
        with pytest.raises(InputError, match="libaio") as refusal:
            train_alone(run)
        assert "libaio-dev" in refusal.value.hint


def test_offload_without_libaio_is_refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self, verbose: False)
    run = make_run(world, tmp_path / "disk", stage=3, offload="nvme", offload_folder=str(tmp_path / "swap"))
    with pytest.raises(InputError, match="libaio"):
        train_alone(run)
    assert not (tmp_path / "disk").exists()


def test_a_batch_that_cannot_be_parted_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="7 texts"):
        train_alone(make_run(world, tmp_path / "run", accumulation=8))


def test_the_key_of_a_run_holds_what_decides_its_result(world: Path, tmp_path: Path) -> None:
    def key(**settings: Any) -> str:
        return run_key(make_run(world, tmp_path / "run", **settings), "base", "tokenizer")

    how = {"stage": 3, "accumulation": 2, "offload": "cpu", "activation_checkpointing": True, "layout": "packed"}
    saved = {
        "checkpoint_every": 3,
        "checkpoint_minutes": 5.0,
        "keep_last": 5,
        "keep_every": 9,
        "resume": False,
        "trackers": ("wandb",),
    }
    assert key(**how, **saved, name="another") == key()
    assert key(batch_tokens=40, batch_size=3) == key(batch_tokens=40)
    results = [{"lora": Lora()}, {"seed": 1}, {"learning_rate": 1.0}, {"num_steps": 0, "num_epochs": 2.0}]
    results += [{"batch_tokens": 40}, {"max_grad_norm": 0.5}, {"schedule": "cosine"}, {"weight_decay": 0.1}]
    assert len({key(), *(key(**result) for result in results)}) == len(results) + 1


def test_runs_are_read_from_json_and_trained_without_ray(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(world, tmp_path / "run", num_steps=2, lora=Lora(targets=("q_proj",)))
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([dataclasses.asdict(run)]))
    assert read_runs(path) == [run]
    assert main([str(path)]) == 0
    assert "run  2/2  loss " in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoint.json").exists()
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(run, base=str(tmp_path)))))
    assert main([str(path)]) == 2
    assert "no model here" in capsys.readouterr().err


def test_a_file_that_holds_no_runs_is_refused(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    with pytest.raises(InputError, match="no such file"):
        read_runs(path)
    content = dataclasses.asdict(make_run(world, tmp_path / "run"))
    wrongs: list[tuple[dict[str, Any], str]] = [({"batchsize": 3}, "batchsize"), ({"num_steps": "many"}, "num_steps")]
    wrongs += [({"stage": 7}, "stage"), ({"schedule": "step"}, "schedule"), ({"accumulation": 0}, "accumulation")]
    wrongs += [({"lora": {"rank": 0}}, "lora.rank"), ({"layout": "dense"}, "layout"), ({"batch_tokens": -1}, "tokens")]
    for wrong, key in wrongs:
        path.write_text(json.dumps(content | wrong))
        with pytest.raises(InputError, match=key):
            read_runs(path)
