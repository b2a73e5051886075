"""The folder of one study: a lock, one folder per stage named by the hash of its inputs, seconds by stage.

`runs/demo/augment-1f0c.../` holds what that recipe slice made of those inputs; a changed recipe starts beside it.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import InputError
from data.seeds import fingerprint
from data.store import write_json

STAGES = (
    "imports",
    "data",
    "start ray",
    "start engines",
    "augment",
    "score base model",
    "train",
    "score checkpoints",
)


class Workspace:
    """Paths and bookkeeping under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.logs = self.root / "logs"
        self._seconds_path = self.root / "stages.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second one is refused. The lock ends with the process in any case."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    "another study is running in this folder",
                    where=str(self.root),
                    hint="wait for it to end, or choose another folder with --out",
                ) from error
            yield

    def stage(self, name: str, *inputs: object) -> Path:
        """The folder of a stage for exactly these inputs."""
        return self.root / f"{name}-{fingerprint(name, *inputs)[:12]}"

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to its stage; they add up over interruptions and are kept on errors too."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.record(stage, time.monotonic() - started)

    def record(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        found = self.seconds()
        found[stage] = round(found.get(stage, 0.0) + seconds, 2)
        write_json(self._seconds_path, found)

    def seconds(self) -> dict[str, float]:
        """Seconds spent so far, by stage, in the order of the stages."""
        if not self._seconds_path.exists():
            return {}
        found: dict[str, float] = json.loads(self._seconds_path.read_text())
        return {name: found[name] for name in STAGES if name in found}
