"""The actor that hosts one engine. Reads shards of requests, writes shards of answers, returns receipts.

A plain class: `cluster.pool` makes an actor of it. A target that already rests on disk is not computed again.
"""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from augment_service.engine import Engine, EngineSpec, start_engine
from data.records import CheckpointRef, Generation, Prompt, Score, ScoreItem, ShardReceipt
from data.store import read_shard, read_table, write_shard


class EngineWorker:
    """One engine and the weights that are resident in it."""

    def __init__(self, spec: EngineSpec) -> None:
        self._engine: Engine = start_engine(spec)
        self._base = CheckpointRef(name="base", path=spec.model, fingerprint="", base="", num_steps=0)
        self._resident: CheckpointRef | None = self._base

    def generate_shard(self, source: str, target: str, unit: str) -> ShardReceipt:
        """Prompts of the shard `source` -> generations in the shard `target`, by the base model."""
        return self._produce(
            target, unit, None, Generation, lambda: self._engine.generate(read_shard(Path(source), Prompt))
        )

    def score_shard(self, source: str, target: str, unit: str, ref: CheckpointRef | None) -> ShardReceipt:
        """Score items of the shard `source` -> scores in the shard `target`, by a checkpoint or the base model."""
        return self._produce(target, unit, ref, Score, lambda: self._engine.score(read_shard(Path(source), ScoreItem)))

    def stats(self) -> dict[str, float]:
        """The engine's counts since its start."""
        return self._engine.stats()

    def _produce(
        self,
        target: str,
        unit: str,
        ref: CheckpointRef | None,
        record: type,
        compute: Callable[[], list[Generation] | list[Score]],
    ) -> ShardReceipt:
        started = time.perf_counter()
        path = Path(target)
        if path.exists():
            num_rows = read_table(path).num_rows
        else:
            self._make_resident(ref or self._base)
            num_rows = write_shard(path, record, compute())
        return ShardReceipt(unit, target, num_rows, time.perf_counter() - started, f"{platform.node()}:{os.getpid()}")

    def _make_resident(self, ref: CheckpointRef) -> None:
        if ref == self._resident:
            return
        self._resident = None  # until the new weights have passed the probe, nobody knows what is loaded
        self._engine.load_weights(ref)
        self._resident = ref
