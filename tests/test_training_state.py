"""Training states: runs that go on bit for bit where they stopped, on other numbers of ranks and at other stages."""

import dataclasses
import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import losses, make_run, make_world, starts, torchrun, train_alone

from data.errors import InputError, ResumableError
from data.records import CheckpointRef
from train.engine.checkpoint import METRICS, read_ref
from train.engine.state import expired, find_state, states_folder
from train.run.finetune_run import FinetuneRun, Lora
from train.run.loop import finetune
from train.run.stopping import StateClock

STAGES = range(4)


class StoppedError(Exception):
    """A test stops a run from within, as a signal would."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("corpus"), attention_dropout=0.1)


def stop_at(step: int) -> Callable[[dict[str, Any]], None]:
    """A report that stops the run when that many steps are done; the state of that very step is not yet written."""

    def report(row: dict[str, Any]) -> None:
        if row["step"] + 1 >= step:
            raise StoppedError

    return report


def stopped(run: FinetuneRun, step: int) -> None:
    with pytest.raises(StoppedError):
        finetune(run, stop_at(step))


def going_on_from(run: FinetuneRun, out: Path) -> FinetuneRun:
    """The same run in another folder, with the earliest state that a finished one kept."""
    shutil.copytree(states_folder(Path(run.out)), states_folder(out))
    shutil.rmtree(states_folder(out) / "step-00000010")
    return dataclasses.replace(run, out=str(out))


@pytest.mark.parametrize(
    ("stage", "offload"), [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (2, "cpu"), (3, "cpu")]
)
def test_a_resumed_run_has_the_losses_and_weights_of_a_calm_one_bit_for_bit(
    world: Path, tmp_path: Path, stage: int, offload: str
) -> None:
    settings = {"stage": stage, "offload": offload, "checkpoint_every": 4}
    settings |= {"accumulation": 2, "weight_decay": 0.1, "schedule": "cosine"}
    calm = train_alone(make_run(world, tmp_path / "calm", **settings))
    run = make_run(world, tmp_path / "run", **settings, name="calm")
    stopped(run, 8)
    assert not (tmp_path / "run").exists()
    ref = train_alone(run)
    assert starts(ref) == [(0, 1), (4, 1)]
    assert losses(ref) == losses(calm)
    assert ref.fingerprint == calm.fingerprint
    assert not states_folder(tmp_path / "run").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_the_fp32_weights_behind_bf16_are_kept(world: Path, tmp_path: Path, stage: int) -> None:
    """The model is in bf16, and what is trained are fp32 copies."""
    settings = {"stage": stage, "checkpoint_every": 4, "learning_rate": 1e-3, "precision": "bfloat16"}
    calm = train_alone(make_run(world, tmp_path / "calm", **settings))
    run = make_run(world, tmp_path / "run", **settings, name="calm")
    stopped(run, 8)
    found = find_state(tmp_path / "run", json.loads(next(tmp_path.rglob("state.json")).read_text())["key"])
    assert found is not None
    tensors = load_file(Path(found.folder) / "part-00000.safetensors")
    norm = tensors["weight/model.norm.weight"]
    assert norm.dtype == torch.float32
    assert not torch.equal(norm, norm.bfloat16().float())
    assert losses(train_alone(run)) == losses(calm)


def test_adapters_resume_bit_for_bit(world: Path, tmp_path: Path) -> None:
    settings = {"stage": 2, "checkpoint_every": 4, "lora": Lora(rank=2, dropout=0.1)}
    calm = train_alone(make_run(world, tmp_path / "calm", **settings))
    run = make_run(world, tmp_path / "run", **settings, name="calm")
    stopped(run, 8)
    ref = train_alone(run)
    assert starts(ref) == [(0, 1), (4, 1)]
    assert (losses(ref), ref.fingerprint) == (losses(calm), calm.fingerprint)


def test_budgets_and_packed_rows_resume_bit_for_bit_and_other_layouts_go_on(world: Path, tmp_path: Path) -> None:
    settings = {"num_steps": 0, "num_tokens": 700, "batch_tokens": 60, "layout": "packed", "checkpoint_every": 4}
    calm = train_alone(make_run(world, tmp_path / "calm", **settings))
    runs = [make_run(world, tmp_path / name, **settings, name="calm") for name in ("same", "other")]
    for run in runs:
        stopped(run, 8)
    same, other = train_alone(runs[0]), train_alone(dataclasses.replace(runs[1], layout="padded"))
    assert starts(same) == starts(other) == [(0, 1), (4, 1)]
    assert (losses(same), same.fingerprint) == (losses(calm), calm.fingerprint)
    totals = [
        [json.loads(line)["total_tokens"] for line in (Path(ref.path) / METRICS).read_text().splitlines()]
        for ref in (calm, same, other)
    ]
    assert totals[0] == totals[1] == totals[2]
    assert totals[0][-1] == pytest.approx(700, abs=6)


@dataclasses.dataclass
class Moved:
    """Runs of all stages that began on one rank or on two, and went on from step 5 on the other number."""

    begun: dict[tuple[int, int], CheckpointRef]
    gone_on: dict[tuple[int, int], CheckpointRef]
    extensions: Path


@pytest.fixture(scope="module")
def moved(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    folder = tmp_path_factory.mktemp("moved")
    calm = make_world(tmp_path_factory.mktemp("calm"))  # without dropout, which differs between ranks
    settings = {"checkpoint_every": 5, "keep_every": 5}
    runs = {
        (ranks, stage): make_run(calm, folder / f"{ranks}-{stage}", stage=stage, **settings)
        for ranks in (1, 2)
        for stage in STAGES
    }
    begun = {(1, stage): train_alone(runs[1, stage]) for stage in STAGES}
    onto_two = [going_on_from(runs[1, stage], folder / f"1-{stage}-on-2") for stage in STAGES]
    torchrun(
        [runs[2, stage] for stage in STAGES] + onto_two,
        folder / "torchrun",
        num_ranks=2,
        TORCH_EXTENSIONS_DIR=str(folder / "extensions"),
    )
    begun |= {(2, stage): read_ref(Path(runs[2, stage].out)) for stage in STAGES}
    gone_on = {(1, stage): read_ref(Path(onto_two[stage].out)) for stage in STAGES}
    for stage in STAGES:
        gone_on[2, stage] = train_alone(going_on_from(runs[2, stage], folder / f"2-{stage}-on-1"))
    return Moved(begun, gone_on, folder / "extensions")


def test_all_stages_on_one_rank_and_two_have_one_loss_curve(moved: Moved) -> None:
    golden = losses(moved.begun[1, 0])
    assert len(golden) == 12
    assert golden[-1] < golden[0] - 0.5
    for ref in moved.begun.values():
        assert losses(ref) == pytest.approx(golden, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_on_another_number_of_ranks(moved: Moved, before: int, after: int, stage: int) -> None:
    ref = moved.gone_on[before, stage]
    assert starts(ref) == [(0, before), (5, after)]
    assert losses(ref) == pytest.approx(losses(moved.begun[before, stage]), abs=1e-5)


def test_no_operator_is_compiled(moved: Moved) -> None:
    assert [path for path in moved.extensions.rglob("*") if path.is_file()] == []


def test_a_run_goes_on_at_another_stage(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", stage=1, checkpoint_every=4)
    stopped(run, 8)
    ref = train_alone(dataclasses.replace(run, stage=3, accumulation=2))
    calm = train_alone(make_run(world, tmp_path / "calm", name="run"))
    assert starts(ref) == [(0, 1), (4, 1)]
    assert losses(ref)[:4] == losses(calm)[:4]
    # Dropout falls otherwise on a batch in two parts, so only without it the curves would stay together.
    assert losses(ref) == pytest.approx(losses(calm), abs=0.5)


def test_a_state_is_written_by_the_clock_too(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", checkpoint_every=1000, checkpoint_minutes=1e-6)
    stopped(run, 3)
    assert starts(train_alone(run))[0] == (0, 1) and starts(train_alone(run))[1][0] > 0
    without = make_run(world, tmp_path / "without", checkpoint_every=0, checkpoint_minutes=1e-6)
    stopped(without, 3)
    assert not states_folder(Path(without.out)).exists()


def test_the_clock_asks_for_no_more_states_than_take_a_twentieth_of_the_time() -> None:
    now = 0.0
    clock, never = StateClock(10.0, lambda: now), StateClock(0.0, lambda: now)
    now = 599.0
    assert not clock.is_due()
    now = 600.0
    assert clock.is_due() and not never.is_due()
    clock.wrote(60.0)
    now = 600.0 + 1199.0
    assert not clock.is_due()
    now = 600.0 + 1200.0
    assert clock.is_due()
    clock.wrote(1.0)
    now += 600.0
    assert clock.is_due()


def test_settings_that_changed_are_refused_and_a_fresh_start_can_be_asked_for(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", checkpoint_every=4)
    stopped(run, 8)
    with pytest.raises(InputError, match="other settings"):
        train_alone(dataclasses.replace(run, learning_rate=2e-2))
    ref = train_alone(dataclasses.replace(run, learning_rate=2e-2, resume=False))
    assert starts(ref) == [(0, 1)]


def test_a_state_that_is_damaged_is_passed_over(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", checkpoint_every=3)
    stopped(run, 9)
    part = states_folder(tmp_path / "run") / "step-00000006" / "part-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    (states_folder(tmp_path / "run") / ".step-00000009.unfinished").mkdir()
    assert starts(train_alone(run)) == [(0, 1), (3, 1)]


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """A call after which this process cannot write files beyond 20 kB: the error of a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_leaves_the_state_before_it(
    world: Path, tmp_path: Path, full_disk: Callable[[], None]
) -> None:
    run, limit = make_run(world, tmp_path / "run", checkpoint_every=4), resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(row: dict[str, Any]) -> None:
        if row["step"] == 7:
            full_disk()

    with pytest.raises(ResumableError, match=r"File too large"):
        finetune(run, fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    states = states_folder(tmp_path / "run")
    assert sorted(path.name for path in states.iterdir()) == ["latest.json", "step-00000004"]
    ref = train_alone(run)
    assert starts(ref) == [(0, 1), (4, 1)]
    assert ref.fingerprint == train_alone(make_run(world, tmp_path / "calm", name="run")).fingerprint


def test_a_disk_that_fills_during_the_export_leaves_no_checkpoint(
    world: Path, tmp_path: Path, full_disk: Callable[[], None]
) -> None:
    run = make_run(world, tmp_path / "run")

    def fill(row: dict[str, Any]) -> None:
        if row["step"] == 11:
            full_disk()

    with pytest.raises(ResumableError, match="writing failed"):
        finetune(run, fill)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "gone"),
    [(2, 0, [30, 20, 10]), (1, 20, [30, 10]), (9, 0, []), (0, 0, [50, 40, 30, 20, 10])],
)
def test_which_states_stay(keep_last: int, keep_every: int, gone: list[int]) -> None:
    assert expired([10, 30, 20, 50, 40], keep_last=keep_last, keep_every=keep_every) == gone


def test_the_states_that_stay_for_good_are_there_at_the_end(world: Path, tmp_path: Path) -> None:
    train_alone(make_run(world, tmp_path / "run", checkpoint_every=2, keep_last=1, keep_every=4))
    kept = sorted(states_folder(tmp_path / "run").glob("step-*"))
    assert [path.name for path in kept] == ["step-00000004", "step-00000008"]
    lines = (kept[0] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
