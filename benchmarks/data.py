"""What data costs: imports in one language and in many, near-duplicates, making and auditing the full semantic set.

`python -m benchmarks.data --json OUT`. Times are CPU seconds of one process, all its threads together, so that other
work on the machine disturbs them less; each import runs in a process of its own, whose highest memory is read at its
end. Writes OUT, and generated corpora below `--folder` (about 2.5 GB, removed at the end).
"""

import argparse
import itertools
import json
import math
import multiprocessing
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.languages import SENTENCES

MEGABYTE = 1_000_000
SIZES = (0.1, 0.3, 1.0)  # of the largest
MEAN_WORDS = 180  # in a document: about 1.2 kB
COPY_SHARE = 0.1  # of the documents for the near-duplicates are a changed copy of an earlier one
CHANGED_WORDS = 0.01  # of a copy: its likeness is about 0.9
SIMILARITY = 0.8
NUM_HASHES = 128
SHINGLE_WORDS = 5


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=1000, help="the largest import (default: 1000)")
    parser.add_argument("--dedup-megabytes", type=int, default=30, help="for the near-duplicates (default: 30)")
    parser.add_argument("--folder", type=Path, help="for generated files (default: a temporary folder)")
    flags = parser.parse_args(words)
    folder = Path(tempfile.mkdtemp(prefix="bench-data-", dir=flags.folder))
    try:
        report = measure(folder, flags.megabytes, flags.dedup_megabytes)
    finally:
        shutil.rmtree(folder)
    report["command"] = " ".join(["python -m benchmarks.data", *(sys.argv[1:] if words is None else words)])
    flags.json.parent.mkdir(parents=True, exist_ok=True)
    flags.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["ratios"], indent=1))
    return 0


def measure(folder: Path, megabytes: int, dedup_megabytes: int) -> dict[str, Any]:
    """All measures; `ratios` holds those that are claimed."""
    imports = []
    for share in SIZES:
        path = folder / "corpus.jsonl"
        write_corpus(path, int(megabytes * share) * MEGABYTE)
        imports.append(in_process(measure_import, path, folder / "out", 0.0))
        show(f"import of {imports[-1]['megabytes']:.0f} MB", imports[-1])
    languages = measure_languages(folder, megabytes)
    dedup = measure_dedup(folder, dedup_megabytes)
    semantic = in_process(measure_semantic, folder / "semantic")
    show("semantic set", semantic)
    small, large = imports[0], imports[-1]
    growth = math.log(large["cpu_seconds"] / small["cpu_seconds"]) / math.log(large["megabytes"] / small["megabytes"])
    ratios = {
        "import_mb_per_second": large["megabytes"] / large["cpu_seconds"],
        "semantic_seconds": semantic["cpu_seconds"],
        "dedup_datasketch": dedup["datasketch"]["cpu_seconds"] / dedup["ours"]["extra_cpu_seconds"],
    }
    return {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "import": imports,
        "import_growth_exponent": round(growth, 3),
        "languages": languages,
        "dedup": dedup,
        "semantic": semantic,
        "machine": {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()},
    }


def in_process(measured: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
    """The result of a function in a fresh process, with that process's highest memory in megabytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, measured, args))
    process.start()
    sender.close()
    try:
        result: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{measured.__name__} ended with exit code {process.exitcode}") from None
    process.join()
    return result


def _report(sender: Any, measured: Callable[..., dict[str, Any]], args: Sequence[object]) -> None:
    result = measured(*args)
    # Not getrusage: its mark is handed down from the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    sender.send(result | {"peak_megabytes": round(int(status["VmHWM"].split()[0]) * 1024 / MEGABYTE)})


def measure_import(path: Path, out: Path, similarity: float) -> dict[str, Any]:
    """One import of one file, from the naming of the file to the manifest."""
    from data.corpora.importer import import_corpus
    from data.corpora.reading import ImportSettings
    from data.corpora.sources import find_sources

    shutil.rmtree(out, ignore_errors=True)
    started, cpu = time.monotonic(), time.process_time()
    found = find_sources([str(path)], out=out)
    summary = import_corpus(found, out, ImportSettings(similarity=similarity))
    result = {
        "megabytes": summary.num_bytes / MEGABYTE,
        "documents": summary.num_documents,
        "set_aside": summary.num_rejected,
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    shutil.rmtree(out)
    return result


def measure_languages(folder: Path, megabytes: int) -> list[dict[str, Any]]:
    """The import of texts in 26 languages, most of them not in ASCII; memory must not grow with the file."""
    results = []
    for share in SIZES:
        path = folder / "languages.jsonl"
        write_languages(path, int(megabytes * share) * MEGABYTE)
        results.append(in_process(measure_import, path, folder / "out", 0.0))
        show(f"import of {results[-1]['megabytes']:.0f} MB in {len(SENTENCES)} languages", results[-1])
    return results


def measure_dedup(folder: Path, megabytes: int) -> dict[str, Any]:
    """What near-duplicates cost us beyond a plain import, and what the same costs with datasketch."""
    path = folder / "copies.jsonl"
    copies = write_corpus(path, megabytes * MEGABYTE, copies=True)
    plain = in_process(measure_import, path, folder / "out", 0.0)
    ours = in_process(measure_import, path, folder / "out", SIMILARITY)
    peer = in_process(measure_datasketch, path)
    ours["extra_cpu_seconds"] = round(ours["cpu_seconds"] - plain["cpu_seconds"], 3)
    ours["found"] = ours["set_aside"].get("near-duplicate", 0)
    show("near-duplicates, beyond the plain import", ours | {"cpu_seconds": ours["extra_cpu_seconds"]})
    show("near-duplicates with datasketch, texts in memory", peer)
    return {"megabytes": plain["megabytes"], "copies": copies, "ours": ours, "datasketch": peer}


def measure_datasketch(path: Path) -> dict[str, Any]:
    """Signatures and an index by datasketch, at its own defaults; reading the file does not count."""
    from datasketch import MinHash, MinHashLSH

    texts = [json.loads(line)["text"] for line in path.open()]
    cpu = time.process_time()
    index, found = MinHashLSH(threshold=SIMILARITY, num_perm=NUM_HASHES), 0
    for number, text in enumerate(texts):
        words = text.lower().split()
        shingles = {" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(max(1, len(words) - 4))}
        signature = MinHash(num_perm=NUM_HASHES)
        signature.update_batch(shingles)
        if index.query(signature):
            found += 1
        else:
            index.insert(number, signature)
    return {"cpu_seconds": round(time.process_time() - cpu, 3), "found": found}


def measure_semantic(folder: Path) -> dict[str, Any]:
    """The full semantic set: generated and written, then read, closed, audited, and guessed at by the baselines."""
    from data.audit import TRAINED, audit_set
    from data.baselines import measure_baselines
    from data.records import Document, Question
    from data.sets.registry import make_set
    from data.store import read_folder
    from pipeline.data_section import Semantic

    cpu, started = time.process_time(), time.monotonic()
    make_set("semantic", "open", 1, Semantic.model_validate({"lexicon": "open"}).sizes(), 0, folder)
    made = time.process_time()
    questions = list(read_folder(folder / "questions", Question))
    documents = list(read_folder(folder / "documents", Document))
    audit = audit_set(questions, documents)
    audited = time.process_time()
    tests = [question for question in questions if question.inference not in TRAINED]
    rates = [rate for of_split in measure_baselines(tests, documents).values() for rate in of_split.values()]
    return {
        "documents": len(documents),
        "questions": len(questions),
        "sound": audit.sound,
        "make_cpu_seconds": round(made - cpu, 3),
        "audit_cpu_seconds": round(audited - made, 3),
        "baselines_cpu_seconds": round(time.process_time() - audited, 3),
        "best_baseline_accuracy": round(max(rate.accuracy for rate in rates), 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "wall_seconds": round(time.monotonic() - started, 3),
    }


def write_corpus(path: Path, size: int, *, copies: bool = False) -> int:
    """JSON lines of `size` bytes, of invented words, the same for the same size; returns the number of copies."""
    written = count = 0
    with path.open("w") as file:
        for number, (text, is_copy) in enumerate(_texts(copies)):
            written += file.write(json.dumps({"id": f"document-{number}", "text": text, "source": "made"}) + "\n")
            count += is_copy
            if written >= size:
                return count
    raise AssertionError("the texts do not end")


def write_languages(path: Path, size: int) -> None:
    """JSON lines of `size` bytes in all languages of `SENTENCES`, the same for the same size."""
    rng, written = random.Random(0), 0
    with path.open("wb") as file:
        for number in itertools.count():
            sentences = SENTENCES[rng.choice(tuple(SENTENCES))]
            text = " ".join([*rng.choices(sentences, k=rng.randint(4, 30)), str(number)])
            written += file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            if written >= size:
                return


def _texts(copies: bool) -> Iterator[tuple[str, bool]]:
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioubdfgklmnprstvz", k=rng.randint(2, 10))) for _ in range(20_000)]
    earlier: list[list[str]] = []
    while True:
        is_copy = copies and bool(earlier) and rng.random() < COPY_SHARE
        if is_copy:
            text = [rng.choice(words) if rng.random() < CHANGED_WORDS else word for word in rng.choice(earlier)]
        else:
            text = rng.choices(words, k=20 + int(rng.expovariate(1 / (MEAN_WORDS - 20))))
            if copies:
                earlier.append(text)
        yield " ".join(text) + ".", is_copy


def show(what: str, result: dict[str, Any]) -> None:
    """A line for each measure."""
    figures = {name: value for name, value in result.items() if isinstance(value, int | float)}
    print(f"{what}: " + ", ".join(f"{name} {value:,}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
