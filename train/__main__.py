"""`python -m train RUNS.json`: train without Ray, alone in one process or on every rank that torchrun starts.

Reads: a JSON file of one run or a list of runs, each with the keys of `FinetuneRun`. Writes: as
`train.run.loop`.

    torchrun --nproc-per-node 2 --max-restarts 3 -m train runs.json
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data.errors import InputError, ResumableError
from train.run.finetune_run import FinetuneRun


def read_runs(path: Path) -> list[FinetuneRun]:
    """The runs of a JSON file. Raises InputError for invalid values and unknown keys."""
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"no such file: {error.strerror}", where=str(path), hint="name a JSON file of runs") from error
    kind: Any = list[FinetuneRun] if text.lstrip().startswith("[") else FinetuneRun
    try:
        runs = TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{key}: {first['msg']}",
            where=str(path),
            hint=f"a run has the keys {', '.join(FinetuneRun.__dataclass_fields__)}",
        ) from error
    return runs if isinstance(runs, list) else [runs]


def main(words: Sequence[str]) -> int:
    """Train all runs in order; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m train", description="Train runs without Ray.")
    parser.add_argument("runs", type=Path, help="JSON file: a run, or a list of runs")
    parser.add_argument("--stall-seconds", type=float, help="a step that takes longer ends its process")
    flags = parser.parse_args(words)
    rank = int(os.environ.get("RANK", "0"))
    try:
        runs = read_runs(flags.runs)
        from train.run.heartbeat import Heartbeat
        from train.run.loop import finetune

        heartbeat = Heartbeat(flags.runs.with_suffix(".heartbeats"), rank, flags.stall_seconds)
        for run in runs:
            finetune(run, partial(_report, run), heartbeat)
    except (InputError, ResumableError) as error:
        if rank == 0 or type(error) not in (InputError, ResumableError):
            print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 3
    return 0


def _report(run: FinetuneRun, row: dict[str, Any]) -> None:
    done = f"{run.name}  {row['step'] + 1}/{row['num_steps']}"
    print(f"{time.strftime('%H:%M:%S')}  {done}  loss {row['loss']:.4f}  {row['tokens_per_second']} tokens/s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
