"""`submit` and `jobs`: commands that run on a cluster's head, from a machine that is no node of it, as Ray jobs.

Ships our packages and the files that are named. Talks to the head's job server: `ray[default]` there, by default on
port 8265 of its loopback interface.
"""

import logging
import os
import shlex
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.ray_internals import use_token
from cluster.session import PACKAGES, REPOSITORY
from data.errors import InputError, ResumableError
from pipeline.cli import COMMANDS, DASHBOARD, build_parser
from pipeline.commands import CONSOLE

POLL_SECONDS = 2.0
LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")  # of uploads, line by line
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
_HINT = "start the head with ray[default] and --dashboard-host, or forward the port: ssh -L 8265:127.0.0.1:8265 HEAD"


def submit(flags: Namespace) -> None:
    """`submit`: start a command as a job, with `--follow` until it ends. Raises its failure."""
    words = _checked(flags.words)
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), flags.ship)
        with _server(flags.dashboard) as client:
            job = client.submit_job(
                entrypoint=shlex.join([flags.python, "-m", "pipeline", *words]),
                submission_id=flags.name or None,
                runtime_env={"working_dir": folder},
            )
    at = f" --dashboard {flags.dashboard}" * (flags.dashboard != DASHBOARD)
    CONSOLE.print(f"job       {job}: entail jobs logs {job} --follow{at}", highlight=False, soft_wrap=True)
    if flags.follow:
        with _server(flags.dashboard) as client:
            _follow(client, job)


def show_jobs(flags: Namespace) -> None:
    """`jobs list`: the jobs of the cluster, the newest first."""
    with _server(flags.dashboard) as client:
        rows = [row for row in client.list_jobs() if row.submission_id]
    table = Table(box=None, pad_edge=False)
    for name in ("job", "state", "since", "command"):
        table.add_column(name, overflow="fold")
    for row in sorted(rows, key=lambda row: row.start_time or 0, reverse=True):
        began = datetime.fromtimestamp((row.start_time or 0) / 1000).strftime("%Y-%m-%d %H:%M")
        table.add_row(row.submission_id, str(row.status.value).lower(), began, row.entrypoint)
    CONSOLE.print(table)


def show_status(flags: Namespace) -> None:
    """`jobs status`: the state of a job, and what Ray says of it."""
    with _server(flags.dashboard) as client:
        row = client.get_job_info(flags.job)
    CONSOLE.print(f"{row.status.value.lower()}: {row.message}", highlight=False, markup=False, soft_wrap=True)


def show_logs(flags: Namespace) -> None:
    """`jobs logs`: what a job has printed, with `--follow` until it ends. Raises its failure then."""
    with _server(flags.dashboard) as client:
        if flags.follow:
            _follow(client, flags.job)
        else:
            print(client.get_job_logs(flags.job), end="")


def stop(flags: Namespace) -> None:
    """`jobs stop`: SIGTERM to the command of a job, which writes its training state; waits until it has ended."""
    with _server(flags.dashboard) as client:
        if not client.stop_job(flags.job):
            raise InputError("the job is over already", where=flags.job, hint="entail jobs list shows all")
        while client.get_job_status(flags.job).value not in OVER:
            time.sleep(POLL_SECONDS)
        CONSOLE.print(f"{flags.job} {client.get_job_status(flags.job).value.lower()}", highlight=False)


def _fill(folder: Path, ship: Sequence[Path]) -> None:
    """The job's working folder: our packages, from which the command ships them to all nodes, and some files."""
    for name in (*PACKAGES, "models/tiny"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ship:
        if not path.is_file() or (folder / path.name).exists():
            what = "two files of one name" if path.is_file() else "no such file"
            raise InputError(what, where=f"--ship {path}", hint="name files of this machine; a folder must be shared")
        shutil.copy(path, folder / path.name)


def _checked(words: list[str]) -> list[str]:
    """The command with `--address auto`, where it uses a cluster and names none. Raises InputError, exits on usage."""
    words = words[1:] if words[:1] == ["--"] else words
    if not words or words[0] not in COMMANDS or words[0] in ("submit", "jobs"):
        raise InputError("no command of entail", where="submit", hint="entail submit -- run my.toml --out /shared/mine")
    parser, attached = build_parser(), [*words, "--address", "auto"]
    if any(word.split("=")[0] in ("--address", "--cluster.address") for word in words):
        attached = words
    try:
        parser.parse_args(attached)
        return attached
    except InputError:
        parser.parse_args(words)  # it knows no address, or says what is wrong
        return words


@contextmanager
def _server(address: str) -> Iterator[Any]:
    """A client of the job server. Raises InputError where there is none, or if it refuses."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    use_token()
    try:
        yield JobSubmissionClient(address)
    except ConnectionError as error:
        what = f"no job server answers: {str(error).strip().partition(chr(10))[0][:200]}"
        raise InputError(what, where=f"--dashboard {address}", hint=_HINT) from error
    except AuthenticationError as error:
        hint = "copy the ~/.ray/auth_token of whoever started it, or set RAY_AUTH_TOKEN_PATH; and RAY_AUTH_MODE=token"
        raise InputError("the cluster wants another token", where=f"--dashboard {address}", hint=hint) from error
    except RuntimeError as error:  # of every request that was refused
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        hint = "entail jobs list shows all jobs"
        raise InputError(
            f"the job server refuses: {lines[-1][:300]}", where=f"--dashboard {address}", hint=hint
        ) from error


def _follow(client: Any, job: str) -> None:
    """Print what a job prints until it ends. Raises an error with the exit code of the command if it failed."""
    shown = 0
    while True:
        state = client.get_job_status(job).value
        text = client.get_job_logs(job)
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if state in OVER:
            break
        time.sleep(POLL_SECONDS)
    if state == "SUCCEEDED":
        return
    message = str(client.get_job_info(job).message).partition(", last available logs")[0]
    if message.endswith("exit code 2"):
        raise InputError("the command ended with exit code 2", where=f"job {job}", hint="what it printed says why")
    raise ResumableError(f"job {job} {state.lower()}: {message}")
