"""One engine in two processes (tensor parallelism, on the CPU): the scores of one process, in a Ray actor, too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import CONTEXT, checkpoint, make_model

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.vllm import VllmEngine
from data.records import Score, ScoreItem

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.timeout(600)
ITEMS = [ScoreItem(f"i{i}", CONTEXT, f" w{i} w{i + 1}", ("w1", "w2 w3", "w4 w5 w6 w7")) for i in range(4)]


def scores_of(folders: list[Path], tensor_parallel: int) -> list[float]:
    """By an engine that starts with the first folder and swaps the others in."""
    spec = EngineSpec("vllm", str(folders[0]), kv_cache_gib=0.1, tensor_parallel=tensor_parallel)
    engine, found = VllmEngine(spec), []
    try:
        for folder in folders:
            engine.load_weights(checkpoint(folder))
            found += [score for score in engine.score(ITEMS) if isinstance(score, Score)]
        assert engine.stats()["cold_restarts"] == 0
    finally:
        engine.close()
    assert len(found) == len(folders) * len(ITEMS)
    return [value for score in found for value in score.token_log_likelihoods]


def test_scores_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    folders = [make_model(tmp_path / name, seed, tied=True) for seed, name in enumerate("ab")]
    assert scores_of(folders, 2) == pytest.approx(scores_of(folders, 1), abs=1e-4)


def test_such_an_engine_works_in_an_actor(tmp_path: Path) -> None:
    def entail(*words: str) -> None:
        done = subprocess.run([sys.executable, "-m", "pipeline", *words], cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr + done.stdout

    suite, out = tmp_path / "suite", tmp_path / "out"
    entail("data", "make", "reversals", "--lexicon", "tiny", "--out", str(suite), "--worlds", "1", "--facts", "8")
    asked = ("--suite", str(suite), "--model", "models/tiny", "--contexts", "all", "--out", str(out))
    entail("evaluate", *asked, "--tensor-parallel", "2")
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["suites"]["reversals"]["trained"]["base+all"]["accuracy"] > 0.9
