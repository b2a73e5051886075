"""The data stage: generated sets, and your own documents and questions, as sealed folders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from data.corpora.importer import import_corpus
from data.corpora.reading import REJECTED, ROWS_FILE, ImportSettings
from data.corpora.sources import find_sources
from data.errors import InputError
from data.records import Conversation
from data.seeds import fingerprint
from data.sets.registry import make_set, set_key
from data.store import MANIFEST, list_shards, read_manifest, read_table
from evaluate.fanout import Suite, open_suite, suite_corpora
from pipeline.data_section import DataSection, OwnCorpus, SetSection
from pipeline.stages.train import inner

Say = Callable[[str, str], None]  # a label and a line for the user


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


def make_corpus(name: str, section: DataSection, seed: int, folder: Path, say: Say) -> Suite:
    """Make or find one entry of [data]; finished work is not repeated."""
    if isinstance(section, SetSection):
        make_set(name, section.lexicon, section.worlds, section.sizes(), seed=seed, folder=folder)
        return Suite(name, folder / "questions", folder / "documents")
    documents = find_documents(Path(section.documents), folder / "import", say)
    return replace(open_suite(Path(section.questions), folder, documents), name=name)


def find_documents(path: Path, out: Path, say: Say) -> Path:
    """As `find_texts`. Raises InputError for conversations, too: only training reads them."""
    documents = find_texts(path, out, say)
    if read_manifest(documents).get("record") == Conversation.__name__:
        hint = "learn them with `entail train --documents`; here, name documents"
        raise InputError("these are conversations, not documents", where=str(documents), hint=hint)
    return documents


def find_texts(path: Path, out: Path, say: Say, *, messages_column: str = "") -> Path:
    """The sealed documents or conversations of an import, a set or an Arrow folder.

    Other files are imported into `out` first, with a `messages_column` as conversations; rows that the import rejects
    are reported. Raises InputError if that column is named for what is imported already.
    """
    if not path.exists():
        raise InputError("no such file or folder", where=str(path), hint="name documents: files, or a folder")
    is_ours = any((path / part).exists() for part in (MANIFEST, f"documents/{MANIFEST}", "inputs.json"))
    # Shards of ours without a manifest are unfinished; a saved folder of `datasets` has a state.json.
    is_unfinished = any(path.glob("part-*.arrow")) and not (path / "state.json").exists()
    if is_ours or is_unfinished:
        if messages_column:
            hint = "leave it out if these are conversations; otherwise name the files that have that column"
            raise InputError("--messages-column is for files, and these are imported", where=str(path), hint=hint)
        return inner(path, "documents")
    summary = import_corpus(find_sources([str(path)], out=out), out, ImportSettings(messages_column=messages_column))
    if summary.num_rejected:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary.num_rejected.items())
        say("rejected", f"{reasons}, in {out / REJECTED / ROWS_FILE}")
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
