"""Real DeepSpeed under real Ray Train on a random Llama: equal losses, whole checkpoints, runs that survive."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import ray
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.errors import InputError
from data.records import Augmentation, CheckpointRef, Document
from data.store import write_folder
from data.weights import weights_fingerprint
from train.batches import encode, pad
from train.checkpoint import METRICS, read_ref
from train.launch import Progress, finetune_all
from train.loop import finetune, learning_rate
from train.runs import FinetuneRun, TextSource, read_texts
from train.zero import zero_config

WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `base`, a random model of 20k parameters, and `documents`, 24 texts of 4-11 words."""
    folder = tmp_path_factory.mktemp("train")
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<eos>")
    tokenizer.save_pretrained(folder / "base")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=64, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    texts = [" ".join(WORDS[(7 * i + j * j) % 60] for j in range(4 + i % 8)) for i in range(24)]
    documents = [Document(f"d{i}", text, "w0") for i, text in enumerate(texts)]
    write_folder(folder / "documents", Document, documents)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    repository = str(Path(__file__).parents[1])
    environment = {"env_vars": {"PYTHONPATH": repository, "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


@dataclasses.dataclass
class Study:
    """What one worker group of two ranks did: all ZeRO stages, three longer runs, and a run of unknown words."""

    checkpoints: dict[str, CheckpointRef]
    seen: list[Progress]
    refusal: InputError


@pytest.fixture(scope="module")
def study(world: Path, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    write_folder(folder / "english", Document, [Document("d0", "w1 whale w2", "w0")])
    runs = [make_run(world, folder / f"stage{stage}", stage=stage) for stage in range(4)]
    runs += long_runs(world, folder)
    unknown = make_run(world, folder / "unknown", sources=(TextSource(str(folder / "english")),))
    with pytest.raises(InputError) as refusal:
        train_all([*runs, unknown], 2, folder / "storage", [])
    assert not any(Path(run.out).exists() for run in runs)  # it is told before anything starts
    seen: list[Progress] = []
    refs = train_all(runs, 2, folder / "storage", seen)
    return Study({ref.name: ref for ref in refs}, seen, refusal.value)


def long_runs(world: Path, folder: Path) -> list[FinetuneRun]:
    return [make_run(world, folder / f"long{seed}", num_steps=200, seed=seed) for seed in range(3)]


def make_run(world: Path, out: Path, **changes: Any) -> FinetuneRun:
    run = FinetuneRun(
        name=out.name,
        base=str(world / "base"),
        sources=(TextSource(str(world / "documents")),),
        out=str(out),
        num_steps=12,
        batch_size=7,
        learning_rate=1e-2,
        warmup_steps=2,
    )
    return dataclasses.replace(run, **changes)


def train_all(runs: list[FinetuneRun], num_workers: int, storage: Path, seen: list[Progress]) -> list[CheckpointRef]:
    return finetune_all(
        runs, num_workers=num_workers, cpus_per_worker=1, use_gpu=False, storage=storage, on_progress=seen.append
    )


def losses(ref: CheckpointRef) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(ref.path) / METRICS).read_text().splitlines()]


def train_alone(run: FinetuneRun) -> CheckpointRef:
    return finetune(run, lambda row: None)


def test_ranks_and_stages_share_one_loss_curve(world: Path, study: Study, tmp_path: Path) -> None:
    curves = [losses(study.checkpoints[f"stage{stage}"]) for stage in range(4)]
    alone = [losses(train_alone(make_run(world, tmp_path / f"stage{stage}", stage=stage))) for stage in range(4)]
    assert len(alone[0]) == 12
    for curve in curves + alone:
        assert curve == pytest.approx(alone[0], abs=1e-5)
    assert alone[0][-1] < alone[0][0] - 0.5


def test_progress_names_the_run_and_its_place(study: Study) -> None:
    last = study.seen[-1]
    assert (last.run, last.index, last.num_runs, last.step, last.num_steps) == ("long2", 6, 7, 200, 200)


def test_unknown_words_are_refused_before_the_workers_start(study: Study) -> None:
    assert study.refusal.what.endswith("vocabulary: whale")
    assert study.refusal.where == "the texts of run unknown"


@pytest.mark.parametrize("stage", [1, 3])
def test_the_loss_is_the_plain_one_and_the_checkpoint_reloads(world: Path, tmp_path: Path, stage: int) -> None:
    """One step of rate 0 on all texts: transformers' own loss, and weights that come back unchanged."""
    run = make_run(
        world, tmp_path / "still", num_steps=1, warmup_steps=0, batch_size=24, learning_rate=1e-30, stage=stage
    )
    ref = train_alone(run)
    assert ref == read_ref(tmp_path / "still")
    assert ref.fingerprint == weights_fingerprint(tmp_path / "still") == weights_fingerprint(world / "base")
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (world / "base", ref.path))
    tokenizer = AutoTokenizer.from_pretrained(ref.path)
    rows = encode(read_texts(run.sources), tokenizer, window=64, where="here")
    input_ids = torch.from_numpy(pad(rows)[0])
    assert torch.equal(before(input_ids).logits, after(input_ids).logits)
    total = sum(before(torch.tensor([r]), labels=torch.tensor([r])).loss.item() * (len(r) - 1) for r in rows)
    assert losses(ref) == pytest.approx([total / sum(len(r) - 1 for r in rows)], abs=1e-5)


def test_one_seed_gives_one_checkpoint_and_another_seed_another(world: Path, tmp_path: Path) -> None:
    first, again, other = (
        train_alone(make_run(world, tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_finished_runs_are_skipped_and_changed_ones_refused(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run")
    ref = train_alone(run)
    written = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    moved = dataclasses.replace(run, base=str(world / "documents" / ".." / "base"))
    for same in (run, moved):
        assert train_alone(same) == ref
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="other settings"):
        train_alone(dataclasses.replace(run, learning_rate=2e-2))
    with pytest.raises(InputError, match="other settings"):
        train_all([dataclasses.replace(run, num_steps=13)], 1, tmp_path / "storage", [])


def test_a_killed_worker_costs_its_run_only(world: Path, study: Study, tmp_path: Path) -> None:
    """A SIGKILL in the second of three runs: the group restarts and ends with the weights of the calm study."""
    killed: list[int] = []
    first_written: list[int] = []

    def kill_a_worker() -> None:
        while not (tmp_path / ".long1.unfinished" / METRICS).exists():
            time.sleep(0.02)
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        first_written.append((tmp_path / "long0" / "checkpoint.json").stat().st_mtime_ns)
        os.kill(workers[-1].pid, signal.SIGKILL)
        killed.append(workers[-1].pid)

    killer = threading.Thread(target=kill_a_worker, daemon=True)
    killer.start()
    refs = train_all(long_runs(world, tmp_path), 2, tmp_path / "storage", [])
    killer.join(timeout=1)
    assert len(killed) == 1
    assert first_written == [(tmp_path / "long0" / "checkpoint.json").stat().st_mtime_ns]
    calm = [study.checkpoints[ref.name].fingerprint for ref in refs]
    assert [ref.fingerprint for ref in refs] == calm
    assert len(set(calm)) == 3


def test_a_diverging_run_names_itself_the_step_and_its_texts(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "wild", learning_rate=1e30, clip=0.0)
    with pytest.raises(InputError, match=r"(?s)became (nan|inf) at step \d+ .*run wild.*begins: w\d+"):
        train_alone(run)
    assert not (tmp_path / "wild").exists()


def test_sources_keep_their_world_methods_and_verdict(tmp_path: Path) -> None:
    rows = [
        Augmentation(str(i), world, method, "d", "", f"text {i}", verdict, "stop", "", "", 0.0, 0)
        for i, (world, method, verdict) in enumerate(
            [("w0", "local", "kept"), ("w1", "local", "kept"), ("w0", "global", "kept"), ("w0", "local", "repeated")]
        )
    ]
    write_folder(tmp_path / "made", Augmentation, rows)
    source = TextSource(str(tmp_path / "made"), world="w0", verdict_kept_only=True)
    assert read_texts([source]) == ["text 0", "text 2"]
    assert read_texts([dataclasses.replace(source, methods=("global",))]) == ["text 2"]
    with pytest.raises(InputError, match="no texts"):
        read_texts([dataclasses.replace(source, world="w9")])
    with pytest.raises(InputError, match="no finished Arrow folder"):
        read_texts([TextSource(str(tmp_path))])


def test_fingerprints_follow_the_weights_and_not_the_files(world: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(world / "base")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert weights_fingerprint(tmp_path / "sharded") == weights_fingerprint(world / "base")
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    model.save_pretrained(tmp_path / "changed")
    assert weights_fingerprint(tmp_path / "changed") != weights_fingerprint(world / "base")
    cut = tmp_path / "changed" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut off"):
        weights_fingerprint(tmp_path / "changed")
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        weights_fingerprint(world / "documents")


def test_learning_rates_rise_and_fall(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path, num_steps=6, warmup_steps=2, learning_rate=1.0)
    rates = {
        s: [learning_rate(dataclasses.replace(run, schedule=s), i) for i in range(6)] for s in ("linear", "cosine")
    }
    assert rates["linear"] == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    assert rates["cosine"] == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert learning_rate(dataclasses.replace(run, schedule="constant"), 5) == 1.0


def test_zero_config_is_golden() -> None:
    config = zero_config(2, 16, 1.0, bf16=True)
    assert config["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_clipping"]) == (16, 1.0)
    assert config["bf16"] == {"enabled": True}
    assert "optimizer" not in config and "bf16" not in zero_config(0, 16, 1.0, bf16=False)


def test_settings_out_of_range_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="schedule must be one of linear, constant, cosine, not 'step'"):
        make_run(world, tmp_path, schedule="step")
