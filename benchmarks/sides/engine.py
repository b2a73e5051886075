"""One cold engine: a process that starts it, scores one shard, and ends."""

from pathlib import Path

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.start import start_engine
from benchmarks.settings import KV_CACHE_GIB
from benchmarks.side import serve
from data.records import Score, ScoreItem
from data.store import read_shard, write_shard


class EngineSide:
    """No pool and no Ray: the cheapest cold start that there is."""

    def score(self, model: str, source: str, target: str, kind: str = "vllm") -> None:
        """Items of the shard `source` -> scores in the shard `target`."""
        engine = start_engine(EngineSpec(kind=kind, model=model, kv_cache_gib=KV_CACHE_GIB if kind == "vllm" else None))  # type: ignore[arg-type]
        write_shard(Path(target), Score, engine.score(read_shard(Path(source), ScoreItem)))


if __name__ == "__main__":
    serve(EngineSide())
