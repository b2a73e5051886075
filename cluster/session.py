"""The Ray session: a local one that needs no flag, or one that runs already. Writes a link to Ray's log folder."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private import ray_constants, services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.worker import BaseContext

from data.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
# Else glibc hands large buffers back to the kernel at every free; faulting them in anew took a third of each step.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
NOT_SHIPPED = [".git", ".venv", "runs", "*.safetensors", "__pycache__"]
KNOCK_SECONDS = 10.0
NAMESPACE = "entail"  # where the names of pools live
TOKEN = Path.home() / ".ray" / "auth_token"
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a running session. `logs` is the folder of the engines' and Ray's output on this machine.

    `address` can be given to `connect` by another process, of this machine only if the session was started here.
    `nodes` are the (CPUs, GPUs) of each node; `cpus` and `gpus` are their sums.
    """

    address: str
    logs: Path
    cpus: int
    gpus: int
    nodes: tuple[tuple[int, int], ...]


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
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = tuple((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in resources)
        cpus, gpus = (sum(counts) for counts in zip(*nodes, strict=True))
        yield Session(str(context.address_info["address"]), logs, cpus, gpus, nodes)
    finally:
        ray.shutdown()


def _start(num_cpus: int | None) -> BaseContext:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    with _loopback_only():
        context = ray.init(
            address="local",
            namespace=NAMESPACE,
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": path, **KEEP_FREED_MEMORY}},
        )
    if TOKEN.exists():
        TOKEN.chmod(0o600)  # Ray leaves it readable for all, and whoever has it can run code in our sessions
    return context


def _attach(address: str) -> BaseContext:
    try:
        if address == "auto":
            address = services.get_ray_address_from_environment(address, None)
        host = _knock(address) if address != "auto" else ""
        logging.getLogger("ray").setLevel(logging.ERROR)
        if host in LOOPBACK:  # Ray shows the token of this user's sessions to an address that it found itself, else not
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        # A node that knows itself by its loopback address is not found under any other
        with _loopback_only() if host in LOOPBACK else nullcontext():
            return ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"working_dir": str(REPOSITORY), "excludes": NOT_SHIPPED, "env_vars": KEEP_FREED_MEMORY},
            )
    except (ConnectionError, TimeoutError, ValueError, socket.gaierror) as error:
        raise InputError(
            f"no Ray cluster answers: {error}",
            where=f"address {address}",
            hint="start one with `ray start --head`, give its HOST:PORT, or leave the address out",
        ) from error


@contextmanager
def _loopback_only() -> Iterator[None]:
    """What Ray does on a Mac: every port on the loopback interface."""
    clusters_allowed = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters_allowed


def _knock(address: str) -> str:
    # Ray waits for many minutes on an address where nobody listens
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    return host


def _link_logs(logs: Path, log_dir: Path) -> Path:
    log_dir.mkdir(parents=True, exist_ok=True)
    link = log_dir / "ray"
    link.unlink(missing_ok=True)
    link.symlink_to(logs, target_is_directory=True)
    return logs
