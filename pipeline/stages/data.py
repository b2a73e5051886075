"""The data stage: generated sets, and your own documents and questions, as sealed folders."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from pyarrow import feather

from data.corpora.importer import import_corpus
from data.corpora.reading import ImportSettings
from data.corpora.sources import find_sources
from data.errors import InputError
from data.records import Document
from data.seeds import fingerprint
from data.sets.registry import make_set, set_key
from data.store import MANIFEST, list_shards, read_manifest, read_table, write_folder
from evaluate.fanout import Suite, open_suite, suite_corpora
from pipeline.data_section import DataSection, OwnCorpus, SetSection
from pipeline.stages.train import inner

# Of files with conversations, by their ending.
_READERS: Mapping[str, Callable[[Path], pa.Table]] = {
    ".jsonl": pa_json.read_json,
    ".parquet": pq.read_table,
    ".arrow": feather.read_table,
}


def data_key(name: str, section: DataSection, seed: int) -> str:
    """Names what decides an entry of [data]: sizes, seed and generator, or the content of your files."""
    if isinstance(section, OwnCorpus):
        return fingerprint(name, content_key(Path(section.documents)), content_key(Path(section.questions)))
    return set_key(name, section.lexicon, section.worlds, section.sizes(), seed)


def content_key(path: Path) -> str:
    """Names a sealed folder by its content, other files and folders by their names, sizes and times of change."""
    for manifest in (path / "documents" / MANIFEST, path / "questions" / MANIFEST, path / MANIFEST):
        if manifest.exists():
            return str(read_manifest(manifest.parent).get("content", ""))
    if not path.exists():
        raise InputError("no such file or folder", where=str(path), hint="correct the path")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return fingerprint(*((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def make_corpus(name: str, section: DataSection, seed: int, folder: Path) -> Suite:
    """Make or find one entry of [data]; finished work is not repeated."""
    if isinstance(section, SetSection):
        make_set(name, section.lexicon, section.worlds, section.sizes(), seed=seed, folder=folder)
        return Suite(name, folder / "questions", folder / "documents")
    documents = find_documents(Path(section.documents), folder / "import")
    return replace(open_suite(Path(section.questions), folder, documents), name=name)


def find_conversations(path: Path, column: str, out: Path) -> Path:
    """The conversations in a column of JSON lines, Parquet or Arrow files, one file or a folder of them, as documents.

    A document's text is its conversation as JSON. Raises InputError for a row in another form.
    """
    files = sorted(found for found in ([path] if path.is_file() else path.glob("*")) if found.suffix in _READERS)
    if not files:
        what, hint = "no file of conversations here", f"name a file or a folder of {', '.join(_READERS)}"
        raise InputError(what, where=str(path), hint=hint)
    rows = []
    for file in files:
        try:
            table = _READERS[file.suffix](file)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"this cannot be read: {error}", where=str(file), hint="write it again") from error
        if column not in table.column_names:
            has = ", ".join(table.column_names)
            raise InputError(f"no column {column}; the columns are {has}", where=str(file), hint="--messages-column")
        for number, value in enumerate(table[column].to_pylist(), start=1):
            if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
                what, hint = f"no conversation: {str(value)[:80]!r}", "a row is a list of messages: role and content"
                raise InputError(what, where=f"{file}, row {number}", hint=hint)
            text = json.dumps(value, ensure_ascii=False)
            rows.append(Document(fingerprint(file.name, number, text), text, "corpus"))
    write_folder(out / "documents", Document, rows)
    return out / "documents"


def find_documents(path: Path, out: Path) -> Path:
    """The sealed documents of an import, a set or an Arrow folder; other files are imported into `out` first."""
    if not path.exists():
        raise InputError("no such file or folder", where=str(path), hint="name documents: files, or a folder")
    is_ours = any((path / part).exists() for part in (MANIFEST, f"documents/{MANIFEST}", "inputs.json"))
    # Shards of ours without a manifest are unfinished; a saved folder of `datasets` has a state.json.
    is_unfinished = any(path.glob("part-*.arrow")) and not (path / "state.json").exists()
    if is_ours or is_unfinished:
        return inner(path, "documents")
    import_corpus(find_sources([str(path)], out=out), out, ImportSettings())
    return out / "documents"


def count_rows(folder: Path | None, *, verdict: str = "") -> int:
    """The rows of a sealed folder, or those with that verdict."""
    if folder is None:
        return 0
    if not verdict:
        return int(read_manifest(folder)["num_rows"])
    columns = (read_table(path)["verdict"] for path in folder.glob("*.arrow"))
    return sum(int(pc.sum(pc.equal(column, verdict)).as_py() or 0) for column in columns)


def check_corpora(suite: Suite) -> None:
    """Raise InputError unless every corpus that is asked about has documents."""
    columns = (read_table(path)["corpus"] for path in list_shards(suite.documents)) if suite.documents else ()
    known = {str(name) for column in columns for name in pc.unique(column).to_pylist()}
    missing = [corpus for corpus in suite_corpora(suite) if corpus not in known]
    if missing:
        raise InputError(
            f'no documents of the corpus "{missing[0]}"; there are: {", ".join(sorted(known)) or "none"}',
            where=str(suite.questions),
            hint='name documents of that corpus (`data import --corpus`), or give the questions a "corpus"',
        )
