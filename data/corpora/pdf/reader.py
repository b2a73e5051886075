"""PDF files as documents, one for each file. They are read by a child process, which is replaced when it dies.

A scan, a file with a password, or one whose fonts do not say what they show has no text and is rejected.
"""

import atexit
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from data.corpora.pdf.answers import BROKEN, Answer, Request
from data.corpora.reading import ImportContext, Source, make_rows
from data.corpora.streams import open_stream

SECONDS, SECONDS_PER_MIB = 30, 30  # of processor time for a file
_ROOT = Path(__file__).parents[3]  # the folder of the package `data`


def read_pdf(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The file as one document; pages that cannot be read are rejected, the others are kept."""
    context.on_bytes(source.size)
    with _on_disk(source) as path:
        seconds = SECONDS + SECONDS_PER_MIB * Path(path).stat().st_size // (1 << 20)
        limit = context.settings.max_bytes
        answer = CHILD.ask({"path": path, "name": source.path.name, "max_bytes": limit, "seconds": seconds})
    for page, reason, detail in answer["rejected"]:
        context.reject(source, page, reason, detail)
    if answer["text"] is not None:
        yield make_rows(source, [answer["text"]], [0], headings=[answer["heading"]], outlines=[answer["outline"]])


@contextmanager
def _on_disk(source: Source) -> Iterator[str]:
    """The path of a file with the content: the source's own unless it is unpacked while it is read."""
    with open_stream(source) as stream:
        if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
            yield str(source.path)
            return
        with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
            shutil.copyfileobj(stream, file)
            file.flush()
            yield file.name


class _Child:
    """The process that reads files, started when the first one comes, and again when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, request: Request) -> Answer:
        """The answer; if the process dies of the file, the file is rejected. Raises OSError if none can be started."""
        with self._lock:
            process = self._process or self._start()
            assert process.stdin and process.stdout
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                if line := process.stdout.readline():
                    answer: Answer = json.loads(line)
                    return answer
            except BrokenPipeError:
                pass
            except BaseException:  # an interrupted answer would be taken for that of the next file
                process.kill()
                self.close()
                raise
            code = self.close()
        detail = _why(code, request["seconds"])
        return {"text": None, "heading": "", "outline": [], "rejected": [(0, BROKEN, detail)]}

    def _start(self) -> subprocess.Popen[str]:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "data.corpora.pdf.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            encoding="ascii",
            start_new_session=True,  # an interrupt at the terminal is the import's to handle
        )
        return self._process

    def close(self) -> int:
        """End the process; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()
        return process.wait()


def _why(code: int, seconds: int) -> str:
    """What ended the process, as the reason for a file."""
    if code == -signal.SIGXCPU:
        return f"reading it took more than {seconds} seconds of processor time"
    if code < 0:
        return f"the PDF library failed on it, or took too much memory ({signal.Signals(-code).name})"
    return f"the PDF library ended on it with status {code}"


CHILD = _Child()
atexit.register(CHILD.close)
