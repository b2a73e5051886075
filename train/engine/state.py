"""The training state on disk, from which a run resumes on any number of ranks and at any ZeRO stage.

Reads and writes a folder of states beside the run's output. Each state is a folder: `part-*.safetensors` (fp32 weights
and moments by the parameters' names, one part written by each rank), `metrics.jsonl` up to its step, and `state.json`.
A rename completes it, then `latest.json` names it; nothing is pickled. There is no random state: random numbers are
derived from the seed, the step and the rank.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from data.errors import InputError
from data.store import sync, write_json
from train.engine.checkpoint import METRICS
from train.engine.load import read_part
from train.engine.zero_engine import (
    KINDS,
    WEIGHT,
    ReadState,
    full_tensors,
    optimizer_steps,
    trained_parameters,
    write_together,
)

STATE, LATEST = "state.json", "latest.json"
_PARTS = "part-*.safetensors"


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a run, for the record in `checkpoint.json`. Producer: `train.run.loop`.

    `step` is the first step, `seconds` the time of rank 0 before it, by phase.
    """

    step: int
    ranks: int
    stage: int
    precision: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """A complete state after `step` steps and `starts`; AdamW has counted `optimizer_steps`."""

    folder: str
    step: int
    optimizer_steps: int
    starts: tuple[Start, ...]


def states_folder(out: Path) -> Path:
    """The folder of a run's states: beside `out`."""
    return out.with_name(f".{out.name}.states")


def save(engine: Any, out: Path, *, step: int, key: str, starts: Sequence[Start], metrics: Path) -> None:
    """Write the state after `step` steps, whole or not at all. All ranks call, each writes a part.

    Raises ResumableError on every rank if one cannot write; earlier states are kept.
    """
    states, rank = states_folder(out), dist.get_rank()
    unfinished, finished = states / f".step-{step:08d}.unfinished", states / f"step-{step:08d}"

    def begin() -> None:
        if rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)

    def write_part() -> None:
        if mine:
            path = unfinished / f"part-{rank:05d}.safetensors"
            save_file(mine, path)
            sync(path)

    def end() -> None:
        if rank != 0:
            return
        shutil.copyfile(metrics, unfinished / METRICS)
        content = {"step": step, "key": key, "optimizer_steps": optimizer_steps(engine)}
        content |= {"starts": [dataclasses.asdict(start) for start in starts], "tensors": len(owners) * len(KINDS)}
        write_json(unfinished / STATE, content)
        sync(unfinished)
        shutil.rmtree(finished, ignore_errors=True)  # a damaged one that was skipped
        os.replace(unfinished, finished)
        write_json(states / LATEST, {"state": finished.name})

    owners = _owners(trained_parameters(engine.module))
    write_together(begin)
    try:
        mine = {
            f"{kind}/{name}": tensor.to("cpu", torch.float32, copy=True).contiguous()
            for name, kind, tensor in full_tensors(engine)  # all ranks take part in gathering every tensor
            if owners[name] == rank
        }
        write_together(write_part)
        write_together(end)
    finally:
        if rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)  # frees a full disk


def find_state(out: Path, key: str) -> State | None:
    """The latest complete state, if there is one. Raises InputError if the states are those of another run."""
    states = states_folder(out)
    latest = json.loads((states / LATEST).read_text())["state"] if (states / LATEST).exists() else ""
    for folder in sorted(states.glob("step-*"), key=lambda path: (path.name == latest, path.name), reverse=True):
        try:
            content = json.loads((folder / STATE).read_text())
            complete = len(_index(folder)) == content["tensors"]
        except (OSError, ValueError, SafetensorError):
            continue  # damaged on the disk: use the one before
        if content["key"] != key:
            raise InputError(
                "the training states here have other settings, texts or weights",
                where=str(states),
                hint="choose another output folder, or delete this one",
            )
        if complete:
            starts = tuple(Start(**start) for start in content["starts"])
            return State(str(folder), content["step"], content["optimizer_steps"], starts)
    return None


def open_state(state: State) -> ReadState:
    """A function that reads parts of the state's tensors."""
    index = _index(Path(state.folder))

    def read(name: str, kind: str, start: int, stop: int) -> torch.Tensor:
        stored = f"{kind}/{name}"
        return read_part(index[stored], stored, start, stop)

    return read


def load_weights(model: torch.nn.Module, read: ReadState) -> None:
    """Copy a state's weights into those trained parameters of a model that are whole, before an engine wraps it."""
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            if not hasattr(parameter, "ds_id"):
                parameter.copy_(read(name, WEIGHT, 0, parameter.numel()).view_as(parameter))


def prune(out: Path, *, keep_last: int, keep_every: int) -> None:
    """Delete expired states, and what a killed writer left; only rank 0 calls this."""
    states = states_folder(out)
    steps = [int(folder.name.partition("-")[2]) for folder in states.glob("step-*")]
    for step in expired(steps, keep_last=keep_last, keep_every=keep_every):
        shutil.rmtree(states / f"step-{step:08d}", ignore_errors=True)
    for left in states.glob(".step-*.unfinished"):
        shutil.rmtree(left, ignore_errors=True)
    if states.exists() and not any(states.glob("step-*")):
        shutil.rmtree(states, ignore_errors=True)


def expired(steps: Iterable[int], *, keep_last: int, keep_every: int) -> list[int]:
    """The steps whose states are deleted: all but the `keep_last` newest and multiples of `keep_every` (0: none)."""
    newest_first = sorted(steps, reverse=True)
    return [step for step in newest_first[keep_last:] if not keep_every or step % keep_every]


def _owners(parameters: dict[str, torch.nn.Parameter]) -> dict[str, int]:
    """The rank that writes each parameter: the largest first, each to the rank with the least so far."""
    loads = [0] * dist.get_world_size()
    # At stage 3 a parameter itself is empty.
    sizes = {name: int(getattr(parameter, "ds_numel", parameter.numel())) for name, parameter in parameters.items()}
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return owners


def _index(folder: Path) -> dict[str, Any]:
    """The open file of each tensor of a state; opening fails for a truncated file."""
    files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob(_PARTS))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 (not a mapping)
