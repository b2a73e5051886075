"""The import: files become `documents/`, rejected rows go to `rejected/`, counts to `manifest.json`, written last.

Streams: at any time a few blocks of text are in memory, and 12 bytes for each document (about 200 more if
near-duplicates are searched for).
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data import store
from data.corpora.ingest import (
    BOOKMARK,
    KEYS,
    LINES,
    SIGNATURES,
    STATE_FOLDER,
    Bookmark,
    ImportPipeline,
    count_lines,
    read_bookmark,
)
from data.corpora.parts import hash_tokenizer, load_counter
from data.corpora.reading import REJECTED, ROWS_FILE, ImportContext, ImportSettings, Rejections
from data.corpora.repeated import LineCounts, RepeatedLines, find_repeated_lines
from data.corpora.sources import SourceFiles
from data.corpora.summary import MOST_NAMED, Summary, Tally
from data.errors import InputError
from data.seeds import fingerprint
from data.unicode import printable, without_surrogates

DOCUMENTS = "documents"
_SHOWN_LINES = 20  # repeated ones, in the summary
_VERSION = 4  # raise it when the same files would become other documents
# The files that an import writes, by folder: nothing else is ever deleted.
_OURS = {
    DOCUMENTS: ("part-*.arrow", "state.json", "dataset_info.json", store.MANIFEST, ".*.tmp"),
    REJECTED: (ROWS_FILE, f".{ROWS_FILE}.tmp"),
    STATE_FOLDER: (BOOKMARK, KEYS, SIGNATURES, LINES, ".*.tmp"),
}


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
        repeated = _repeated_lines(found, out, context, mark) if settings.drop_repeated_lines else None
        pipeline = ImportPipeline(found.sources, context, writer, count, out, mark, repeated)
        pipeline.run()
    summary = _summary(found, pipeline.tally, dict(rejections.counts.most_common()))
    if not summary.num_documents:
        store.release(out)  # corrected files may go to the same folder
        _remove_ours(out / DOCUMENTS)
        _remove_ours(out / STATE_FOLDER)
        raise _nothing(summary, out)
    store.seal(out / DOCUMENTS, settings.record)
    summary = replace(summary, **_boilerplate(out / DOCUMENTS, settings, repeated))
    manifest = {
        "set": settings.corpus,
        "content": store.content_of(out / DOCUMENTS),
        "settings": asdict(settings),
        "summary": asdict(summary),
    }
    store.write_json(out / store.MANIFEST, manifest, durable=True)
    _remove_ours(out / STATE_FOLDER)
    return summary


def _repeated_lines(found: SourceFiles, out: Path, context: ImportContext, mark: Bookmark) -> RepeatedLines:
    """What removes repeated lines: counted in a pass over all files, or read back if this import was interrupted."""
    path = out / STATE_FOLDER / LINES
    if path.exists():
        for source in found.sources:
            context.on_bytes(source.size)
        counts = LineCounts.load(path)
    else:
        counts = count_lines(found.sources, context)
        counts.save(path)
    return RepeatedLines(counts, mark.repeated, mark.num_dropped_lines)


def _summary(found: SourceFiles, tally: Tally, num_rejected: dict[str, int]) -> Summary:
    kinds = sorted({source.kind for source in found.sources})
    documents = {
        kind: sum(int(tally.by_source[source.index]) for source in found.sources if source.kind == kind)
        for kind in kinds
    }
    fruitless = [str(path) for path, _, _ in found.refused]
    fruitless += [str(source.path) for source in found.sources if not tally.by_source[source.index]]

    def place(document: dict[str, Any]) -> dict[str, Any]:
        path = found.sources[document["source"]].path
        return {**document, "source": without_surrogates(str(path))}

    return Summary(
        num_files=len(found.sources),
        num_bytes=sum(source.size for source in found.sources),
        num_documents=tally.num_documents,
        num_words=tally.num_words,
        num_rejected=num_rejected,
        files=dict(Counter(source.kind for source in found.sources)),
        documents=documents,
        languages=dict(tally.languages.most_common()),
        longest=place(tally.longest) if tally.longest else {},
        shortest=place(tally.shortest) if tally.shortest else {},
        num_fruitless=len(fruitless),
        fruitless=[without_surrogates(name) for name in fruitless[:MOST_NAMED]],
        others=dict(found.others.most_common()),
    )


def _boilerplate(folder: Path, settings: ImportSettings, repeated: RepeatedLines | None) -> dict[str, Any]:
    """The fields of the summary about repeated lines. Conversations have no lines of their own."""
    if settings.messages_column:
        return {}
    if repeated:
        lines, num_compared = dict(repeated.documents.most_common(_SHOWN_LINES)), repeated.num_counted
    else:
        lines, num_compared = find_repeated_lines(folder, are_parts=settings.cuts)
    return {
        "repeated": dict(list(lines.items())[:_SHOWN_LINES]),
        "num_repeated": len(repeated.documents) if repeated else len(lines),
        "num_compared": num_compared,
        "num_dropped_lines": repeated.num_dropped if repeated else 0,
    }


def _resume(out: Path) -> Bookmark:
    """Where an import of this folder begins; removes what an interrupted one wrote after its bookmark."""
    mark = read_bookmark(out)
    _remove_ours(out / DOCUMENTS, keep={store.shard_name(number) for number in range(mark.num_shards)})
    if not mark.num_shards:
        _remove_ours(out / REJECTED)
        _remove_ours(out / STATE_FOLDER, keep={LINES})
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
        where=printable(f"{first['file']}, line {first['line']}: {first['detail']}"),
        hint=f"name other files or columns; all rejected rows are in {out / REJECTED / ROWS_FILE}",
    )
