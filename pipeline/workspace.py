"""The output folder of a command: a lock, seconds by stage, logs; in a study also a folder for each stage.

`runs/demo/augment/reversals-1f0c.../` holds what those inputs gave; other inputs get another folder beside it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.locks import hold_lock
from data.errors import InputError
from data.seeds import fingerprint
from data.store import write_json

STAGES = tuple(
    "imports,data,index,start ray,start engines,augment,verify,distill,questions,replay,score base model,train,"
    "score checkpoints,score".split(",")
)


class Workspace:
    """Paths and bookkeeping under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.logs = self.root / "logs"
        self._seconds_path = self.root / "stages.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second command is refused. The lock ends with the process in any case."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError("the output path is a file", where=str(self.root), hint="choose another --out")
        self.root.mkdir(parents=True, exist_ok=True)
        hint = "wait for it to end, or choose another folder with --out"
        with hold_lock(
            self.root / ".lock", "another command is running in this folder", where=str(self.root), hint=hint
        ):
            try:
                yield
            except InputError:  # a folder that holds nothing yet is not left behind
                if {path.name for path in self.root.iterdir()} == {".lock"}:
                    (self.root / ".lock").unlink()
                    self.root.rmdir()
                raise

    def stage(self, name: str, *inputs: object) -> Path:
        """The folder of a stage for exactly these inputs."""
        return self.root / f"{name}-{fingerprint(name, *inputs)[:16]}"  # a name may be a path: "data/reversals"

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to its stage; they add up over restarts and are kept on errors too."""
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
