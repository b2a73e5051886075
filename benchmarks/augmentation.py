"""Augmentation without a model: what jobs, rendering, parsing and sealing cost. `python -m benchmarks.augmentation`.

Our side only: there is no peer for it. The fake engine in a Ray pool writes inferences from generated documents; the
driver's memory is measured in this process. Writes the report of `--json`, and under `--folder` documents and shards.
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from augment_service.augment import AUGMENTATIONS, is_augmented, plan_augmentation, seal_augmentations
from augment_service.contexts import ALL
from augment_service.engines.protocol import EngineSpec
from augment_service.methods import AugmentPlan
from augment_service.worker import UNITS_AT_ONCE, EngineWorker
from benchmarks.harness import Bench, Goal, print_ratios, run
from benchmarks.real_models import SMOLLM2, real_model
from benchmarks.side import ROOT
from cluster.pool import ActorPool
from cluster.session import connect
from data.errors import InputError
from data.records import Document
from data.rendering import ENGLISH, load_book
from data.seeds import fingerprint, stream
from data.store import list_shards, read_manifest, read_table, seal, shard_name, write_shard

GOALS = {name: Goal(1.0) for name in ("rows_per_second", "driver_mb_per_million", "resume_seconds", "plan_seconds")}
ROWS_PER_SECOND, MB_PER_MILLION = 4000.0, 100.0  # ratios are 1 at these
RESUME_SECONDS = 20.0  # of a million finished rows
PLAN_SECONDS = 60.0  # of a plan of 100,000 documents
NUM_ACTORS = 2
SENTENCES = 10  # of each document, so prompts by the local method; the global one has a prompt a document
PLANNED_SENTENCES = 17  # about 200 words
DOCUMENTS_PER_SHARD = 4096
SAMPLE_SECONDS = 0.02
WORDS = (
    "otter stoat mayor river heavier lighter older north market bridge teacher quiet narrow copper winter glass".split()
)


class Resident(NamedTuple):
    """MB that this process occupies: `own`, and pages of files that it has `mapped`, such as shards."""

    own: float
    mapped: float


def measure(bench: Bench) -> None:
    """Augment generated documents with one local and one global method."""
    num_prompts = 2000 if bench.flags.smoke else bench.flags.prompts
    documents = bench.folder / "documents"
    num_documents = max(1, num_prompts // (SENTENCES + 1))
    _write_documents(documents, num_documents)
    book = load_book(None, ENGLISH)
    plan = AugmentPlan(("local/reverse", "global/deduce"), samples=1, temperature=0.7, seed=0)
    spec = EngineSpec(kind="fake", model="none")
    seconds: list[float] = []
    growth: list[Resident] = []
    pa.array(np.zeros(1))  # pyarrow imports pandas at its first conversion: an import, whatever the rows
    imported = _resident()
    with (
        connect(address=None, log_dir=bench.folder, num_cpus=NUM_ACTORS),
        ActorPool(EngineWorker, (spec,), num_actors=NUM_ACTORS, num_cpus=1.0, width=UNITS_AT_ONCE) as pool,
    ):
        started_mb = _resident().own - imported.own
        for number in range(bench.flags.rounds):
            out = bench.folder / f"round-{number}"
            started = time.perf_counter()
            with _peak_growth() as peak:
                jobs = plan_augmentation(documents, out, book, plan, model=f"round {number}", context=ALL)
                pool.run([unit for job in jobs for unit in job.units()], lambda receipt: None)
                seal_augmentations(documents, out, jobs)
            seconds.append(time.perf_counter() - started)
            growth += peak
            bench.tell(f"round {number + 1}/{bench.flags.rounds}  {seconds[-1]:.1f} s  {growth[-1].own:.1f} MB")
    started = time.perf_counter()
    jobs = plan_augmentation(documents, out, book, plan, model=f"round {bench.flags.rounds - 1}", context=ALL)
    assert is_augmented(out, jobs) and not any(job.units() for job in jobs)
    resume_seconds = time.perf_counter() - started
    plan_seconds = _plan(bench) if bench.flags.plan else None
    num_rows = int(read_manifest(out / AUGMENTATIONS)["num_rows"])
    firsts = (read_table(shard)["place"].to_numpy() == 0 for shard in list_shards(out / AUGMENTATIONS))
    num_prompts = sum(int(first.sum()) for first in firsts)
    bench.hold("prompts and answers", abs(num_prompts - (SENTENCES + 1) * num_documents), 0)
    _report(bench, num_prompts, num_rows, seconds, growth, started_mb, resume_seconds, plan_seconds)


def _plan(bench: Bench) -> float:
    """Seconds of a plan of some documents of about 200 words, from the command to its end, with a real tokenizer."""
    documents, model = bench.folder / "planned", real_model(SMOLLM2)
    _write_documents(documents, bench.flags.plan, sentences=PLANNED_SENTENCES)
    words = ["augment", "--documents", str(documents), "--model", str(model), "--methods", "local", "--plan"]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline", *words, "--out", str(bench.folder / "plan")],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    bench.tell(f"a plan of {bench.flags.plan:,} documents: {seconds:.1f} s")
    return seconds


def _report(
    bench: Bench,
    num_prompts: int,
    num_rows: int,
    seconds: Sequence[float],
    growth: Sequence[Resident],
    started_mb: float,
    resume_seconds: float,
    plan_seconds: float | None,
) -> None:
    median = sorted(seconds)[len(seconds) // 2]
    per_second = num_rows / median
    # The first round also pays what does not grow with the rows.
    per_million = max(one.own for one in growth) * 1e6 / num_rows
    ratios = {
        "rows_per_second": per_second / ROWS_PER_SECOND,
        "driver_mb_per_million": MB_PER_MILLION / max(per_million, 1e-9),
        "resume_seconds": RESUME_SECONDS * num_rows / 1e6 / resume_seconds,
    }
    if plan_seconds is not None:
        ratios["plan_seconds"] = PLAN_SECONDS / plan_seconds
    bench.report = {
        "num_prompts": num_prompts,
        "num_rows": num_rows,
        "prompts_per_second": num_prompts / median,
        "resume_seconds": resume_seconds,
        "seconds": list(seconds),
        "driver_growth_mb": [one.own for one in growth],  # of each round, from the start of the work
        "driver_mapped_mb": [one.mapped for one in growth],  # pages of shards, which the system can take back
        "driver_start_mb": started_mb,  # Ray and the pool, above the imports: does not grow with the rows
        "rows_per_second": per_second,
        "driver_mb_per_million": per_million,
        "plan_seconds": plan_seconds,
        "ratios": ratios,
    }
    bench.tell(
        f"{num_prompts:,} prompts, {num_prompts / median:.0f} a second; {num_rows:,} rows, {per_second:.0f} a second; "
        f"{per_million:.0f} MB of the driver per million rows; found finished in {resume_seconds:.1f} s"
    )
    print_ratios(bench, ratios, {name: GOALS[name] for name in ratios})


def _write_documents(folder: Path, count: int, sentences: int = SENTENCES) -> None:
    draw = stream(0, "benchmarks", "augmentation")
    for number, first in enumerate(range(0, count, DOCUMENTS_PER_SHARD)):
        rows = []
        for at in range(first, min(first + DOCUMENTS_PER_SHARD, count)):
            written = (f"The {' '.join(draw.choices(WORDS, k=10))} {at}." for _ in range(sentences))
            rows.append(Document(fingerprint("benchmark", at), " ".join(written), "corpus"))
        write_shard(folder / shard_name(number), Document, rows)
    seal(folder, Document)


@contextmanager
def _peak_growth() -> Iterator[list[Resident]]:
    """In the list, at the end of the block: by how much this process grew at most."""
    found: list[Resident] = []
    before = peak = _resident()
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = Resident(*map(max, peak, _resident()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        peak = Resident(*map(max, peak, _resident()))
        found.append(Resident(peak.own - before.own, peak.mapped - before.mapped))


def _resident() -> Resident:
    status = Path("/proc/self/status")
    if not status.exists():
        raise InputError("memory cannot be measured here", where=str(status), hint="run it on Linux")
    rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
    whole, mapped = (int(rows[name].split()[0]) / 1024 for name in ("VmRSS", "RssFile"))
    return Resident(whole - mapped, mapped)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code."""
    return run(
        "augmentation",
        "What augmentation costs without a model.",
        measure,
        arguments,
        _add_flags,
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", type=int, default=200_000, metavar="N", help="each of some 20 rows (200000)")
    plan = "also time a plan of N documents, e.g. 100000, with the tokenizer of a pretrained model (0: no plan)"
    parser.add_argument("--plan", type=int, default=0, metavar="N", help=plan)


if __name__ == "__main__":
    sys.exit(main())
