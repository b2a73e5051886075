"""The import: sources in, `documents/` out, what is no document in `rejected/`, the counts in `manifest.json`, last.

Streams: at any time a few blocks of text are in memory, and 12 bytes for each document (about 200 more where
near-duplicates are looked for).
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from data.corpora.bookmark import FOLDER, Bookmark, read_bookmark
from data.corpora.flow import Flow
from data.corpora.intake import REJECTED, ROWS_FILE, ImportSettings, Intake, Rejections
from data.corpora.parts import load_counter
from data.corpora.sources import Found
from data.errors import InputError
from data.records import Document
from data.seeds import fingerprint
from data.store import INPUTS, MANIFEST, ShardWriter, claim, seal, shard_name, write_json

DOCUMENTS = "documents"


@dataclass(frozen=True)
class Summary:
    """What an import came to. `num_rejected` counts by reason; near-duplicates are among them."""

    num_files: int
    num_bytes: int
    num_documents: int
    num_words: int
    num_rejected: dict[str, int]


def import_key(found: Found, settings: ImportSettings) -> str:
    """Names the work: the files by path, size and time of change, and the settings."""
    files = [(str(source.path.absolute()), source.size, source.changed_ns) for source in found.sources]
    return fingerprint(asdict(settings), *files, *found.refused)


def find_summary(out: Path, key: str) -> Summary | None:
    """The summary of this import where `out` holds it complete; writes nothing.

    Raises InputError where the folder holds anything else.
    """
    if not (out / INPUTS).exists():
        if any((out / name).exists() for name in (MANIFEST, DOCUMENTS)):
            raise InputError("the folder holds something else", where=str(out), hint="choose another --out")
        return None
    claim(out, key)
    if not (out / MANIFEST).exists():
        return None
    return Summary(**json.loads((out / MANIFEST).read_text())["summary"])


def import_corpus(
    found: Found, out: Path, settings: ImportSettings, *, on_bytes: Callable[[int], None] = lambda _: None
) -> Summary:
    """Write `out`, unless it is complete; a killed import goes on behind its last full shard.

    `on_bytes` hears of the bytes that were read. Raises InputError where `out` holds other work, or nothing is usable.
    """
    key, count = import_key(found, settings), load_counter(settings.tokenizer)
    if done := find_summary(out, key):
        return done
    claim(out, key)
    mark = _go_on(out)
    rejected = out / REJECTED, mark.num_rejected, mark.lengths.get("rejections", 0)
    with (
        Rejections(*rejected) as rejections,
        ShardWriter(out / DOCUMENTS, Document, num_shards=mark.num_shards) as writer,
    ):
        if not mark.num_shards:
            for path, reason, detail in found.refused:
                rejections.add(path, 0, reason, detail)
        flow = Flow(found.sources, Intake(settings, rejections, on_bytes), writer, count, out, mark)
        flow.run()
    summary = Summary(
        num_files=len(found.sources),
        num_bytes=sum(source.size for source in found.sources),
        num_documents=flow.num_documents,
        num_words=flow.num_words,
        num_rejected=dict(rejections.counts.most_common()),
    )
    if not summary.num_documents:
        (out / INPUTS).unlink()  # mended files may come into the same folder
        shutil.rmtree(out / DOCUMENTS)
        shutil.rmtree(out / FOLDER)
        raise _nothing(summary, out)
    seal(out / DOCUMENTS, Document, key=key)
    content = json.loads((out / DOCUMENTS / MANIFEST).read_text())["content"]
    manifest = {"set": settings.corpus, "content": content, "settings": asdict(settings), "summary": asdict(summary)}
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    return summary


def _go_on(out: Path) -> Bookmark:
    """Where an import of this folder begins; what a killed one wrote behind that place is removed."""
    mark = read_bookmark(out)
    if not mark.num_shards:
        for name in (DOCUMENTS, REJECTED, FOLDER):
            shutil.rmtree(out / name, ignore_errors=True)
    kept = {shard_name(number) for number in range(mark.num_shards)}
    for path in (out / DOCUMENTS).glob("*"):
        if path.name not in kept:
            path.unlink()
    return mark


def _nothing(summary: Summary, out: Path) -> InputError:
    """Why there is not a single document."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.num_rejected.items())
    with (out / REJECTED / ROWS_FILE).open(encoding="utf-8") as rows:
        first = json.loads(rows.readline())
    return InputError(
        f"nothing usable in {summary.num_files} files ({reasons})",
        where=f"{first['file']}, line {first['line']}: {first['detail']}",
        hint=f"name other files or columns; all that is wrong stands in {out / REJECTED / ROWS_FILE}",
    )
