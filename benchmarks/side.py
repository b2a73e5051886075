"""A side of a comparison: a long-lived process that does one thing when it is told to, and says how long it took.

Both ends speak JSON, one line a call, over the process's standard input and output. This file needs the standard
library only, because the child's end runs in the environments of the peers as well. Writes: `FOLDER/NAME.log`.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
# Our folder comes last in the path: a peer that imports its own `evaluate` must not find ours.
START = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_module(sys.argv[2], run_name='__main__')"
SECONDS_TO_END = 60.0
RELEASE = "release_memory"  # a call that every side answers
LINES_OF_LOG = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned, and the seconds that it took inside the process."""

    seconds: float
    value: dict[str, Any]


class SideError(Exception):
    """A side's process ended in the midst of a call; the message has the end of its output."""


class Side:
    """The caller's end: starts `python -m MODULE` in `folder` and calls the methods of what it serves."""

    def __init__(
        self, name: str, module: str, *, folder: Path, environment: dict[str, str], python: str = sys.executable
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [python, "-P", "-c", START, str(ROOT), module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=inherited | environment,
                text=True,
            )

    def call(self, method: str, **arguments: object) -> Answer:
        """Call a method with JSON arguments and wait for its answer. Raises SideError if the process ends first."""
        assert self._process.stdin and self._process.stdout
        line = ""
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass  # it is gone: told below, with what it said last
        if not line:
            code = self._process.wait()
            said = "\n".join(self._log.read_text(errors="replace").splitlines()[-LINES_OF_LOG:])
            raise SideError(f"{self.name} ended with code {code} in `{method}`; all it said is in {self._log}\n{said}")
        answer = json.loads(line)
        return Answer(answer["seconds"], answer["value"])

    def release_memory(self) -> None:
        """Return what the process has freed to the system: sides of a large model would not fit side by side."""
        self.call(RELEASE)

    def close(self) -> None:
        """End the process: it closes what it has opened when its input ends, and is killed if it does not."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.close()
            self._process.wait(SECONDS_TO_END)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def release_memory() -> None:
    """Collect garbage, and return this process's free memory to the system, which glibc would keep."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def serve(handler: object) -> None:
    """The child's end: answer calls until the input ends, then call `close` if the handler has one.

    Whatever libraries print goes to the log, so that the channel carries answers only.
    """
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)
        for line in sys.stdin:
            order = json.loads(line)
            started = time.perf_counter()
            method = release_memory if order["method"] == RELEASE else getattr(handler, order["method"])
            value = method(**order["arguments"])
            seconds = time.perf_counter() - started
            channel.write(json.dumps({"seconds": seconds, "value": value or {}}) + "\n")
            channel.flush()
        if hasattr(handler, "close"):
            handler.close()
