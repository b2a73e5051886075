"""The Ray session: a local one that needs no flag, or one that runs already. Writes a link to Ray's log folder."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private import ray_constants
from ray._private.worker import BaseContext

from data.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
# Else glibc hands large buffers back to the kernel at every free; faulting them in anew took a third of each step.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
NOT_SHIPPED = [".git", ".venv", "runs", "*.safetensors", "__pycache__"]
KNOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a running session. `logs` is the folder of the engines' and Ray's output on this machine."""

    address: str
    logs: Path
    cpus: int
    gpus: int


@contextmanager
def connect(*, address: str | None, log_dir: Path, num_cpus: int | None = None) -> Iterator[Session]:
    """A Ray session for the length of a `with` block; a local one ends with it, with all its processes.

    `address` None starts Ray on this machine, loopback only, with `num_cpus` logical CPUs (default: all; more than
    there are is allowed). Otherwise attaches to that cluster ("auto" finds one on this machine) and ships the code.
    The folder of all output is linked as `log_dir/ray`. Raises InputError if no cluster answers.
    """
    os.environ.update(RAY_ENABLE_UV_RUN_RUNTIME_ENV="0", RAY_USAGE_STATS_ENABLED="0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # leaves CUDA_VISIBLE_DEVICES alone in actors without a GPU
    context = _start(num_cpus) if address is None else _attach(address)
    try:
        logs = _link_logs(Path(context.address_info["session_dir"]) / "logs", log_dir)
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        yield Session(str(context.address_info["address"]), logs, cpus, gpus)
    finally:
        ray.shutdown()


def _start(num_cpus: int | None) -> BaseContext:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    clusters_allowed = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # what Ray does on a Mac: every port on the loopback interface
    try:
        return ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": path, **KEEP_FREED_MEMORY}},
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters_allowed


def _attach(address: str) -> BaseContext:
    try:
        if address != "auto":
            _knock(address)
        return ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"working_dir": str(REPOSITORY), "excludes": NOT_SHIPPED, "env_vars": KEEP_FREED_MEMORY},
        )
    except (ConnectionError, TimeoutError, ValueError, socket.gaierror) as error:
        raise InputError(
            f"no Ray cluster answers: {error}",
            where=f"address {address}",
            mend="start one with `ray start --head`, give its HOST:PORT, or leave the address out",
        ) from error


def _knock(address: str) -> None:
    # Ray waits for many minutes on an address where nobody listens
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def _link_logs(logs: Path, log_dir: Path) -> Path:
    log_dir.mkdir(parents=True, exist_ok=True)
    link = log_dir / "ray"
    link.unlink(missing_ok=True)
    link.symlink_to(logs, target_is_directory=True)
    return logs
