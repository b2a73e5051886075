"""The training state on disk: what a run goes on from, on any number of ranks and at any ZeRO stage.

Reads and writes a folder of states beside the run's output. Each state is a folder of its own: `part-*.safetensors`
(fp32 weights and moments by the parameters' names, the parts written side by side by the ranks), `metrics.jsonl` up to
its step, and `state.json`. It gets its name by a rename, and `latest.json` names it last; nothing is pickled. Random
numbers need no place here: they follow from the seed, the step and the rank.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from data.errors import InputError
from data.store import write_json
from train.engine.checkpoint import METRICS
from train.engine.zero_engine import KINDS, WEIGHT, full_tensors, optimizer_steps, trained_parameters, write_together

STATE, LATEST = "state.json", "latest.json"
_PARTS = "part-*.safetensors"


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a run: from which step, on what. Producer: `train.run.loop`. Consumer: people, in `checkpoint.json`.

    `seconds` are those of rank 0 before the first step, by phase.
    """

    step: int
    ranks: int
    stage: int
    precision: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """A complete state: `step` steps are done, of which AdamW counted `optimizer_steps`. `starts` led here."""

    folder: str
    step: int
    optimizer_steps: int
    starts: tuple[Start, ...]


def states_folder(out: Path) -> Path:
    """Where the states of a run lie: beside `out`."""
    return out.with_name(f".{out.name}.states")


def save(engine: Any, out: Path, *, step: int, key: str, starts: Sequence[Start], metrics: Path) -> None:
    """Write the state after `step` steps, whole or not at all. All ranks call, each writes a part.

    Raises ResumableError on every rank if one cannot write; the states before stay as they are.
    """
    states, rank = states_folder(out), dist.get_rank()
    unfinished, finished = states / f".step-{step:08d}.unfinished", states / _name(step)

    def begin() -> None:
        if rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)

    def end() -> None:
        if rank != 0:
            return
        shutil.copyfile(metrics, unfinished / METRICS)
        content = {"step": step, "key": key, "optimizer_steps": optimizer_steps(engine)}
        content |= {"starts": [dataclasses.asdict(start) for start in starts], "tensors": len(owners) * len(KINDS)}
        write_json(unfinished / STATE, content)
        _sync(unfinished)
        shutil.rmtree(finished, ignore_errors=True)  # a damaged one that was passed over
        os.replace(unfinished, finished)
        write_json(states / LATEST, {"state": finished.name})

    owners = _owners(trained_parameters(engine.module))
    write_together(begin)
    try:
        mine = _gather(engine, owners)
        write_together(lambda: _write_part(unfinished, mine))
        write_together(end)
    finally:
        if rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)  # half a state must not fill the disk further


def find_state(out: Path, key: str) -> State | None:
    """The latest state that is whole, if there is any. Raises InputError if the states are those of another run."""
    states = states_folder(out)
    latest = json.loads((states / LATEST).read_text())["state"] if (states / LATEST).exists() else ""
    for folder in sorted(states.glob("step-*"), key=lambda path: (path.name == latest, path.name), reverse=True):
        try:
            content = json.loads((folder / STATE).read_text())
            whole = len(_index(folder)) == content["tensors"]
        except (OSError, ValueError, SafetensorError):
            continue  # damaged on the disk: the one before will do
        if content["key"] != key:
            raise InputError(
                "the training states here come from other settings, texts or weights",
                where=str(states),
                hint="choose another output folder, or delete this one",
            )
        if whole:
            starts = tuple(Start(**start) for start in content["starts"])
            return State(str(folder), content["step"], content["optimizer_steps"], starts)
    return None


def open_state(state: State) -> Callable[[str, str], torch.Tensor]:
    """A reader of the state's tensors by name and kind, fp32 on the host, read when they are asked for."""
    index = _index(Path(state.folder))
    return lambda name, kind: index[f"{kind}/{name}"].get_tensor(f"{kind}/{name}")


def load_weights(model: torch.nn.Module, read: Callable[[str, str], torch.Tensor]) -> None:
    """Put a state's weights into a model that no engine holds yet."""
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(read(name, WEIGHT))


def prune(out: Path, *, keep_last: int, keep_every: int) -> None:
    """Delete the states that nobody wants any more, and what a killed writer left; rank 0 calls alone."""
    states = states_folder(out)
    steps = [int(folder.name.partition("-")[2]) for folder in states.glob("step-*")]
    for step in expired(steps, keep_last=keep_last, keep_every=keep_every):
        shutil.rmtree(states / _name(step), ignore_errors=True)
    for left in states.glob(".step-*.unfinished"):
        shutil.rmtree(left, ignore_errors=True)
    if states.exists() and not any(states.glob("step-*")):
        shutil.rmtree(states, ignore_errors=True)


def expired(steps: Iterable[int], *, keep_last: int, keep_every: int) -> list[int]:
    """The steps whose states go: all but the `keep_last` newest and those that `keep_every` divides (0: none)."""
    newest_first = sorted(steps, reverse=True)
    return [step for step in newest_first[keep_last:] if not keep_every or step % keep_every]


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _owners(parameters: dict[str, torch.nn.Parameter]) -> dict[str, int]:
    """The rank that writes each parameter: the largest first, each to the rank that has least so far."""
    loads = [0] * dist.get_world_size()
    # At stage 3 a parameter's own size is that of an empty shell.
    sizes = {name: int(getattr(parameter, "ds_numel", parameter.numel())) for name, parameter in parameters.items()}
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return owners


def _gather(engine: Any, owners: dict[str, int]) -> dict[str, torch.Tensor]:
    """The part of the state that this rank writes, on the host; all ranks take part in gathering every tensor."""
    rank = dist.get_rank()
    return {
        f"{kind}/{name}": tensor.to("cpu", torch.float32, copy=True).contiguous()
        for name, kind, tensor in full_tensors(engine)
        if owners[name] == rank
    }


def _write_part(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = folder / f"part-{dist.get_rank():05d}.safetensors"
    if tensors:
        save_file(tensors, path)
        _sync(path)


def _index(folder: Path) -> dict[str, Any]:
    """For each tensor of a state the open file that holds it; opening checks that no file is cut off."""
    files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob(_PARTS))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 (no mapping)


def _sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk: a rename must not outrun it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
