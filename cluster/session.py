"""The Ray session: a local one that needs no flag, or an existing cluster. Writes a link to Ray's log folder."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from cluster.locks import home_folder, private_folder
from cluster.places import living_nodes
from cluster.ray_internals import (
    BaseContext,
    errors_of_nodes,
    essential_processes,
    find_address,
    holds_sockets,
    list_nodes,
    loopback_only,
    own_sigterm_handler,
    temporary_folder,
    use_token,
)
from cluster.termination import end, take_sigterm_back
from data.errors import InputError, ResumableError

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("augment_service", "cluster", "data", "evaluate", "pipeline", "train")  # shipped to a cluster, nothing else
# glibc gives tensors of 4 MiB or more a mapping of their own and returns it when they are freed: in its heap, those of
# other sizes leave gaps, two fifths of the memory of a training. Smaller ones it keeps for reuse: page faults took a
# third of the steps of a small model.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**22), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
FORWARDED = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # the driver's own choice of a network interface
CONNECT_SECONDS = 10.0
HEAD_SECONDS, HEAD_POLL_SECONDS = 30.0, 2.0  # Ray itself gives up after 60
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the preface, empty settings
HTTP2_SETTINGS = b"\x04"  # the type of the first frame of a server
# of every session; pools are found by their names in the namespace
COMMON: dict[str, Any] = {"namespace": "entail", "log_to_driver": False, "logging_level": logging.ERROR}
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Session:
    """A running session. Producer: `connect`. `logs` is the folder of the output of Ray and engines on this machine.

    Another process can give `address` to `connect`; a session started here is reachable from this machine only.
    `nodes` are the (CPUs, GPUs) of each node; `cpus` and `gpus` are their sums.
    """

    address: str
    logs: Path
    cpus: int
    gpus: int
    nodes: tuple[tuple[int, int], ...]

    def now(self) -> "Session":
        """The session with the nodes that live now."""
        return replace(self, **_sizes())


def _sizes() -> dict[str, Any]:
    nodes = tuple((node.cpus, node.gpus) for node in living_nodes())
    return {"nodes": nodes, "cpus": sum(cpus for cpus, _ in nodes), "gpus": sum(gpus for _, gpus in nodes)}


@contextmanager
def connect(*, address: str | None, log_dir: Path, num_cpus: int | None = None) -> Iterator[Session]:
    """A Ray session for the length of a `with` block; a local one ends with it, with all its processes.

    `address` None starts Ray on this machine, loopback only, with `num_cpus` logical CPUs (default: all; more than
    exist are allowed). Otherwise attaches to that cluster ("auto" finds one on this machine) and ships our packages.
    The folder of all output is linked as `log_dir/ray`. Raises InputError if Ray cannot start or does not answer.
    """
    os.environ.update(RAY_ENABLE_UV_RUN_RUNTIME_ENV="0", RAY_USAGE_STATS_ENABLED="0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # leaves CUDA_VISIBLE_DEVICES alone in actors without a GPU
    with own_sigterm_handler():
        context = _start(num_cpus) if address is None else _attach(address)
    take_sigterm_back()
    watch = watch_head(str(context.address_info["address"])) if address is not None else nullcontext()
    try:
        logs = _link_logs(Path(context.address_info["session_dir"]) / "logs", log_dir)
        with watch, errors_of_nodes(log_dir / "nodes.log"):
            yield Session(str(context.address_info["address"]), logs, **_sizes())
    finally:
        ray.shutdown()


@contextmanager
def watch_head(address: str) -> Iterator[None]:
    """While the block runs, end the command if the cluster's head does not answer any more.

    Ray's C++ part would end the process without a word of what can be done.
    """
    host, _, port = address.rpartition(":")
    over = threading.Event()

    def watch() -> None:
        answered = time.monotonic()
        while not over.wait(HEAD_POLL_SECONDS):
            with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
                answered = time.monotonic()
            if time.monotonic() - answered > HEAD_SECONDS:
                end(f"the head of the Ray cluster, {address}, has not answered for {HEAD_SECONDS:g} s; start it anew")
                return

    thread = threading.Thread(target=watch, name="head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _start(num_cpus: int | None) -> BaseContext:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    _prepare_token()
    options: dict[str, Any] = {}
    if not holds_sockets(temporary_folder()):  # a batch system's job folder, for example
        options["_temp_dir"] = str(private_folder(Path("/tmp") / f"entail-{os.getuid()}"))
    try:
        with loopback_only(), essential_processes():
            return ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                **COMMON,
                runtime_env={"env_vars": {"PYTHONPATH": path, **MALLOC}},
                **options,
            )
    except OSError as error:
        raise InputError(
            f"Ray cannot start: {error}",
            where=f"temporary folder {options.get('_temp_dir', temporary_folder())}",
            hint="set RAY_TMPDIR to a short path on a writable disk with free space, such as /tmp",
        ) from error
    except Exception as error:
        if not isinstance(error.__cause__, TimeoutError):  # Ray raises a plain exception for this one
            raise
        raise ResumableError(f"Ray did not start in time: {error}; run the command again when there is room") from error


def _prepare_token() -> None:
    """Make the user's token before Ray does: Ray's file is readable for all, and the token lets anybody run code."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    home = home_folder()
    path = (home or Path("/nonexistent")) / ".ray" / "auth_token"
    if not path.is_file():
        path = private_folder(home, ".ray") / "auth_token"
    with suppress(FileExistsError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(uuid.uuid4().hex)
    with suppress(OSError):
        path.chmod(0o600)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _attach(address: str) -> BaseContext:
    if "://" in address:
        raise InputError(
            f"{address.partition('://')[0]}:// addresses are not supported",
            where=f"address {address}",
            hint="run this on a node of the cluster and give HOST:PORT of its head, or auto",
        )
    forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    try:
        if address == "auto":
            address = find_address()
        logging.getLogger("ray").setLevel(logging.ERROR)
        host = _check_cluster(address) if address != "auto" else ""
        # a node that is known by its loopback address is not found under any other
        with loopback_only() if host in LOOPBACK else nullcontext():
            return ray.init(
                address=address,
                **COMMON,
                runtime_env={
                    "py_modules": [str(REPOSITORY / name) for name in PACKAGES],
                    "excludes": ["__pycache__"],
                    "env_vars": MALLOC | forwarded,
                },
            )
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"cannot attach to a Ray cluster: {what}",
            where=f"address {address}",
            hint="start one with `ray start --head`, give its HOST:PORT, or leave the address out",
        ) from error


def _check_cluster(address: str) -> str:
    """The host of an address of a cluster that this machine is a node of. Raises OSError, ValueError, InputError.

    Ray itself waits for minutes where nothing answers, and ends a driver that is no node by a stack trace.
    """
    host = _reach(address)
    try:
        nodes = list_nodes(address)
    except PermissionError:
        if not use_token():
            raise _wrong_token(address, "this user has none") from None
        try:
            nodes = list_nodes(address)
        except PermissionError:
            raise _wrong_token(address, "this user's is another one") from None
    here = [node for node in nodes if node.is_here]
    if not any(node.alive for node in here):
        raise InputError(
            "the cluster has declared this node dead" if here else "this machine is not a node of the cluster",
            where=f"address {address}",
            hint=f"run the command on a node, or make this machine one: ray stop; ray start --address {address}",
        )
    return host


def _wrong_token(address: str, reason: str) -> InputError:
    return InputError(
        f"the cluster wants a token, and {reason}",
        where=f"address {address}",
        hint="copy the ~/.ray/auth_token of whoever started it, or set RAY_AUTH_TOKEN_PATH; and RAY_AUTH_MODE=token",
    )


def _reach(address: str) -> str:
    """The host of an address that answers as gRPC servers do."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal():
        raise ValueError("an address is HOST:PORT or auto")
    with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false"):
            return host
        connection.sendall(HTTP2_HELLO)
        answer = connection.recv(9)
    if answer[3:4] != HTTP2_SETTINGS:
        raise ConnectionError("what answers there is no Ray cluster")
    return host


def _link_logs(logs: Path, log_dir: Path) -> Path:
    log_dir.mkdir(parents=True, exist_ok=True)
    link = log_dir / "ray"
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(logs, target_is_directory=True)
    return logs
