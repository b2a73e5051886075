"""Hashes of large files, computed once: cached by the path, size and modification time of every file.

Reads and writes `$XDG_CACHE_HOME/entail` or `~/.cache/entail`. Without a home folder nothing is cached.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from data.seeds import fingerprint

_SETTLED_SECONDS = 2.0  # a younger file may still change without changing its time, by the clock's granularity


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/entail` or `~/.cache/entail`; None without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not Path(base).is_absolute():
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:  # no home folder
            return None
    return Path(base) / "entail"


def cached_hash(kind: str, files: Sequence[Path], compute: Callable[[], str], *parts: object) -> str:
    """The 32 hex digits that `compute` makes of exactly these files and `parts`. Raises OSError for a missing file."""
    path = _path(kind, files, parts)
    if path is not None and (found := _read(path)):
        return found
    result = compute()
    if path is not None and path == _path(kind, files, parts):  # nothing changed meanwhile
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(result)
    return result


def _path(kind: str, files: Sequence[Path], parts: Sequence[object]) -> Path | None:
    """Where the hash is cached; None without a home folder or for files just written."""
    states = [(os.path.abspath(path), path.stat()) for path in files]  # noqa: PTH100 - Path.resolve would follow links
    if max(state.st_mtime for _, state in states) > time.time() - _SETTLED_SECONDS:
        return None
    name = fingerprint(*(part for path, state in states for part in (path, state.st_size, state.st_mtime_ns)), *parts)
    folder = cache_folder()
    return folder / kind / name if folder else None


def _read(path: Path) -> str:
    """The hash in a file of the cache; "" if there is none, or it is damaged."""
    with suppress(OSError, ValueError):
        content = path.read_text()
        if len(bytes.fromhex(content)) == 16:
            return content
    return ""
