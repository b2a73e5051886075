"""A lock file that ends with its process, and a private folder for files of this user. Standard library only."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.errors import InputError

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def hold_lock(
    path: Path, message: str, *, where: str = "", hint: str = "wait for it to end, or choose another folder"
) -> Iterator[bool]:
    """Hold the lock file for a block; the lock ends with the process in any case.

    Yields whether it is a real lock: false on a disk without locks (NFS without lockd, Lustre), where nothing is
    locked. Raises InputError with `message` if another process holds it, and one if the file cannot be written.
    """
    try:
        handle = path.open("a")
    except OSError as error:
        hint = "choose a folder on a disk that can be written"
        raise InputError(f"cannot write here: {error.strerror}", where=str(path), hint=hint) from error
    with handle:
        is_locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(message, where=where or str(path.parent), hint=hint) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                hint = "choose a folder on another disk"
                raise InputError(f"cannot lock: {error.strerror}", where=str(path), hint=hint) from error
            is_locked = False
        yield is_locked


def private_folder(home: Path | None, *parts: str) -> Path:
    """A folder `parts` below `home` with mode 700; below the temporary folder if there is no writable home.

    Raises InputError if that is not possible either, or the folder there belongs to another user.
    """
    candidates = [home] if home is not None else []
    for base in [*candidates, Path(tempfile.gettempdir()) / f"entail-{os.getuid()}"]:
        folder = base.joinpath(*parts)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
                folder.chmod(0o700)
                return folder
    raise InputError("no folder here is ours to write", where=str(folder), hint="set HOME or TMPDIR to a writable one")


def home_folder() -> Path | None:
    """The user's home; None if there is none."""
    try:
        return Path.home()
    except RuntimeError:
        return None
