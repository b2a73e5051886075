"""The import: files become `documents/`, rejected rows go to `rejected/`, counts to `manifest.json`, written last.

Streams: at any time a few blocks of text are in memory, and 12 bytes for each document (about 200 more if
near-duplicates are searched for).
"""

import contextlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data import store
from data.corpora.ingest import BOOKMARK, KEYS, SIGNATURES, STATE_FOLDER, Bookmark, ImportPipeline, read_bookmark
from data.corpora.parts import hash_tokenizer, load_counter
from data.corpora.reading import REJECTED, ROWS_FILE, ImportContext, ImportSettings, Rejections
from data.corpora.sources import SourceFiles
from data.errors import InputError
from data.seeds import fingerprint

DOCUMENTS = "documents"
_VERSION = 3  # raise it when the same files would become other documents
# The files that an import writes, by folder: nothing else is ever deleted.
_OURS = {
    DOCUMENTS: ("part-*.arrow", "state.json", "dataset_info.json", store.MANIFEST, ".*.tmp"),
    REJECTED: (ROWS_FILE, f".{ROWS_FILE}.tmp"),
    STATE_FOLDER: (BOOKMARK, KEYS, SIGNATURES, ".*.tmp"),
}


@dataclass(frozen=True)
class Summary:
    """The result of an import. `num_rejected` counts by reason, near-duplicates included."""

    num_files: int
    num_bytes: int
    num_documents: int
    num_words: int
    num_rejected: dict[str, int]


def import_key(found: SourceFiles, settings: ImportSettings) -> str:
    """Names the work: the files by path, size and time of change, the settings, and the tokenizer's content."""
    files = [(str(source.path.absolute()), source.size, source.changed_ns) for source in found.sources]
    settings = replace(settings, tokenizer=hash_tokenizer(settings.tokenizer))
    return fingerprint(_VERSION, asdict(settings), *files, *found.refused)


def find_summary(out: Path, key: str) -> Summary | None:
    """The summary of this import if `out` holds it complete; writes nothing.

    Raises InputError if the folder holds anything else.
    """
    manifest = store.read_manifest(out) if store.is_claimed(out, key) else {}
    return Summary(**manifest["summary"]) if manifest else None


def import_corpus(
    found: SourceFiles, out: Path, settings: ImportSettings, *, on_bytes: Callable[[int], None] = lambda _: None
) -> Summary:
    """Write `out`, unless it is complete; an interrupted import resumes after its last full shard.

    `on_bytes` is called with the number of bytes read. Raises InputError if `out` holds other work or other files, or
    if no input is usable.
    """
    key, count = import_key(found, settings), load_counter(settings.tokenizer)
    if done := find_summary(out, key):
        return done
    store.claim(out, key)
    mark = _resume(out)
    rejected = out / REJECTED, mark.num_rejected, mark.lengths.get("rejections", 0)
    with (
        Rejections(*rejected) as rejections,
        store.ShardWriter(out / DOCUMENTS, settings.record, num_shards=mark.num_shards) as writer,
    ):
        if not mark.num_shards:
            for path, reason, detail in found.refused:
                rejections.add(path, 0, reason, detail)
        context = ImportContext(settings, rejections, on_bytes)
        pipeline = ImportPipeline(found.sources, context, writer, count, out, mark)
        pipeline.run()
    summary = Summary(
        num_files=len(found.sources),
        num_bytes=sum(source.size for source in found.sources),
        num_documents=pipeline.num_documents,
        num_words=pipeline.num_words,
        num_rejected=dict(rejections.counts.most_common()),
    )
    if not summary.num_documents:
        store.release(out)  # corrected files may go to the same folder
        _remove_ours(out / DOCUMENTS)
        _remove_ours(out / STATE_FOLDER)
        raise _nothing(summary, out)
    store.seal(out / DOCUMENTS, settings.record)
    manifest = {
        "set": settings.corpus,
        "content": store.content_of(out / DOCUMENTS),
        "settings": asdict(settings),
        "summary": asdict(summary),
    }
    store.write_json(out / store.MANIFEST, manifest, durable=True)
    _remove_ours(out / STATE_FOLDER)
    return summary


def _resume(out: Path) -> Bookmark:
    """Where an import of this folder begins; removes what an interrupted one wrote after its bookmark."""
    mark = read_bookmark(out)
    _remove_ours(out / DOCUMENTS, keep={store.shard_name(number) for number in range(mark.num_shards)})
    if not mark.num_shards:
        _remove_ours(out / REJECTED)
        _remove_ours(out / STATE_FOLDER)
    return mark


def _remove_ours(folder: Path, keep: Collection[str] = ()) -> None:
    """Delete the files that an import wrote into a folder of its own, and the folder if that leaves it empty."""
    for path in [path for pattern in _OURS[folder.name] for path in folder.glob(pattern)]:
        if path.name not in keep:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is missing, or has files of another origin
        folder.rmdir()


def _nothing(summary: Summary, out: Path) -> InputError:
    """Why there are no documents."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.num_rejected.items())
    with (out / REJECTED / ROWS_FILE).open(encoding="utf-8") as rows:
        first = json.loads(rows.readline())
    return InputError(
        f"nothing usable in {summary.num_files} files ({reasons})",
        where=f"{first['file']}, line {first['line']}: {first['detail']}",
        hint=f"name other files or columns; all rejected rows are in {out / REJECTED / ROWS_FILE}",
    )
