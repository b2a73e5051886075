"""Which files an import reads: named ones, those that match a pattern, those in folders.

Reads folders. Links inside folders are not followed, archives are not opened, nothing outside a named folder is read.
A link that the user names is followed.
"""

import fnmatch
import glob
import itertools
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.corpora.kinds import ARCHIVES, CODE, CODE_SUFFIXES, CONVERT, KINDS, SEEKING
from data.corpora.reading import Source
from data.corpora.streams import COMPRESSIONS
from data.errors import InputError

_SHOWN_KINDS = 8
_STATE, _INFO, _DICT = "state.json", "dataset_info.json", "dataset_dict.json"  # of folders that `datasets` saved


@dataclass
class SourceFiles:
    """The files to read, in order, and the refused ones: path, reason, detail. `num_matches` counts repeats too.

    `others` counts files of unknown kinds in folders, by suffix: they are no fault. With `code`, source files are read.
    """

    code: bool = False
    sources: list[Source] = field(default_factory=list)
    refused: list[tuple[Path, str, str]] = field(default_factory=list)
    num_matches: int = 0
    others: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def take(self, path: Path, *, named: bool) -> None:
        """Take a file, or record why not; a file that is found twice is taken once."""
        self.num_matches += 1
        absolute = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
        if absolute in self._seen:
            return
        self._seen.add(absolute)
        suffix, compression = _suffixes(path)
        kind = KINDS.get(suffix, CODE if self.code and suffix in CODE_SUFFIXES else "")
        try:
            status = path.stat() if named else path.lstat()
        except OSError as error:
            self.refused.append((path, "unreadable", str(error)))
            return
        if stat.S_ISLNK(status.st_mode):
            self.refused.append((path, "link", "links in folders are not followed: name its target"))
        elif not stat.S_ISREG(status.st_mode):
            self.refused.append((path, "no file", "neither a file nor a folder"))
        elif suffix in ARCHIVES:
            self.refused.append((path, "archive", "archives are not opened: unpack it and name the folder"))
        elif suffix in CONVERT:
            self.refused.append((path, "convert first", f"no reader for {suffix}: {CONVERT[suffix]}"))
        elif compression and not kind:
            detail = (
                f'the name does not say what is in it: "{suffix}" before "{compression}" has no reader; decompress it'
            )
            self.refused.append((path, "archive", detail))
        elif compression and kind in SEEKING:
            self.refused.append((path, "archive", f"{suffix} is not read through {compression}: decompress it"))
        elif not kind and not named:  # a folder of pages has pictures and styles
            self.others[suffix or "no suffix"] += 1
        elif suffix in CODE_SUFFIXES and not kind:
            self.refused.append((path, "source file", "source files are imported with --code"))
        elif not kind:
            self.refused.append((path, "unknown kind", f'no reader for "{suffix}" among {", ".join(KINDS)}'))
        else:
            source = Source(len(self.sources), path, kind, status.st_size, status.st_mtime_ns)
            self.sources.append(source)


def _suffixes(path: Path) -> tuple[str, str]:
    """The suffix that names the kind, and that of a compression after it, or ""."""
    suffix = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), suffix) if suffix in COMPRESSIONS else (suffix, "")


def find_sources(words: Sequence[str], *, out: Path, code: bool = False) -> SourceFiles:
    """The files that `words` (files, folders, patterns) name, with `code` also source files; `out` is never read.

    Raises InputError if a word matches nothing, or if there are no files at all.
    """
    found = SourceFiles(code)
    for word in words:
        path = Path(word)
        if _is_same(path, out):
            raise InputError("the output folder is the input", where=f"--out {out}", hint="name another folder")
        if os.path.isdir(path):  # noqa: PTH112 - pathlib raises for a name that is too long
            _walk(path, out, found)
        elif os.path.lexists(path):
            found.take(path, named=True)
        else:
            _expand(word, out, found)
    if not found.sources and not found.refused:
        if found.others:
            known = f"give a folder with one of: {', '.join(KINDS)}"
            raise InputError(f"nothing to read: {list_others(found.others)}", where=" ".join(words), hint=known)
        raise InputError("no files here", where=" ".join(words), hint="name files, or a folder with files")
    return found


def list_others(others: Mapping[str, int]) -> str:
    """One line about the files of other kinds."""
    total, ranked = sum(others.values()), sorted(others.items(), key=lambda entry: (-entry[1], entry[0]))
    shown = ", ".join(f"{count:,} {suffix}" for suffix, count in ranked[:_SHOWN_KINDS])
    more = ", ..." if len(ranked) > _SHOWN_KINDS else ""
    hint = " (--code reads source files)" if CODE_SUFFIXES & others.keys() else ""
    return f"{total:,} file{'s' if total != 1 else ''} of other kinds: {shown}{more}{hint}"


def _expand(pattern: str, out: Path, found: SourceFiles) -> None:
    """The files that a pattern matches, and those in folders that it matches; `**` stands for any folders."""
    parts = Path(pattern).parts
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    wanted, base = parts[len(fixed) :], Path(*fixed)
    before = found.num_matches
    # pathlib's own glob follows links, also circular ones.
    for folder, inner, files in os.walk(base) if wanted else ():
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        above = Path(folder).relative_to(base).parts
        for name in sorted([*inner, *files]):
            if not name.startswith(".") and _matches((*above, name), wanted):
                path = Path(folder, name)
                if not path.is_dir() or path.is_symlink():
                    found.take(path, named=False)
                elif "**" not in wanted and not _is_same(path, out):
                    _walk(path, out, found)
        inner[:] = [name for name in inner if not _is_same(Path(folder, name), out)]
        if "**" not in wanted and len(above) + 1 >= len(wanted):
            inner.clear()
    if found.num_matches == before:
        raise InputError(f'nothing matches "{pattern}"', where="PATH", hint="name files, folders, or a quoted pattern")


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the parts of a path match the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        return _matches(names, parts[1:]) or (bool(names) and _matches(names[1:], parts))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def _walk(root: Path, out: Path, found: SourceFiles) -> None:
    """All files below a folder in the order of their names, hidden ones and the output folder left out."""

    def refuse(error: OSError) -> None:
        found.refused.append((Path(str(error.filename)), "unreadable", str(error)))

    for folder, inner, files in os.walk(root, onerror=refuse):
        here = Path(folder)
        for name in sorted(inner):
            if (here / name).is_symlink():
                found.take(here / name, named=False)
        inner[:] = sorted(n for n in inner if not n.startswith(".") and not _is_same(here / n, out))
        if {_STATE, _INFO} <= set(files):
            inner.clear()
            for shard in _dataset_shards(here, found):
                found.take(shard, named=False)
            continue
        for name in sorted(files):
            if not name.startswith(".") and name != _DICT:
                found.take(here / name, named=False)


def _dataset_shards(folder: Path, found: SourceFiles) -> Iterator[Path]:
    """The shards of a folder that `datasets` saved, in its own order."""
    try:
        names = [str(entry["filename"]) for entry in json.loads((folder / _STATE).read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.refused.append((folder / _STATE, "unreadable", f"not the state of a saved dataset: {error}"))
        return
    for name in names:
        if Path(name).name != name:
            found.refused.append((folder / _STATE, "path trick", f'a shard "{name}" outside its folder'))
        else:
            yield folder / name


def _is_same(path: Path, other: Path) -> bool:
    return os.path.abspath(path) == os.path.abspath(other)  # noqa: PTH100
