"""Every use of Ray's private interfaces, in one file: check it when Ray's pinned version changes. No files."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray._private import ray_constants, services, utils, worker
from ray._private import state as cluster_state
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.node import Node
from ray._private.worker import BaseContext
from ray.actor import ActorHandle
from ray.experimental.internal_kv import _internal_kv_del as kv_delete
from ray.experimental.internal_kv import _internal_kv_get as kv_get
from ray.experimental.internal_kv import _internal_kv_put as kv_put

__all__ = ["BaseContext", "kv_delete", "kv_get", "kv_put"]  # of bytes, and the functions below

# below the temporary folder; the process number has up to 7 digits
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.0"
_MAX_SOCKET_PATH = 107  # bytes of a Unix socket's path on Linux


def temporary_folder() -> str:
    """The folder in which Ray would make its session's folder."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def logs_folder() -> Path:
    """The logs of this node's Ray session, in any of its processes."""
    return Path(worker._global_node.get_logs_dir_path())


def holds_sockets(folder: str) -> bool:
    """Whether the paths of a session's sockets below this folder are short enough."""
    return len(os.fsencode(str(Path(folder).absolute()) + _SOCKET)) <= _MAX_SOCKET_PATH


@contextmanager
def loopback_only() -> Iterator[None]:
    """Every port of Ray on the loopback interface, as Ray itself does on a Mac."""
    with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def essential_processes() -> Iterator[None]:
    """Start neither the dashboard's server nor the monitor of logs: nothing here uses them, and a start waits for both.

    Ray has no option for it: `include_dashboard=False` leaves out the pages only.
    """
    with (
        patch.object(services, "start_api_server", lambda *_, **__: ("", None)),
        patch.object(Node, "start_log_monitor", lambda _: None),
    ):
        yield


@contextmanager
def own_sigterm_handler() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, if it has one, where Ray would install its own."""
    has_own = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None)
    with patch.object(utils, "set_sigterm_handler", lambda _: None) if has_own else nullcontext():
        yield


@contextmanager
def errors_of_nodes(log: Path) -> Iterator[None]:
    """Append to a file what Ray would print into the terminal: the last lines of the log of each node that dies."""

    def write(data: dict[str, Any], **_: object) -> None:
        with suppress(OSError), log.open("a") as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    with patch.object(worker, "print_to_stdstream", write):
        yield


def find_address() -> str:
    """The address of the cluster on this machine; "auto" if none is found. Raises ConnectionError."""
    return services.get_ray_address_from_environment("auto", None) or "auto"


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as the head knows it. Producer: `list_nodes`. `socket` is that of its raylet, on its machine."""

    address: str
    alive: bool
    socket: str

    @property
    def is_here(self) -> bool:
        """Whether a raylet of this machine answers for the node."""
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(5)
            connection.connect(self.socket)
            return True
        return False


def list_nodes(address: str) -> list[NodeRow]:
    """The nodes of the cluster at HOST:PORT, without attaching to it; in a process of its own.

    For Ray keeps for the whole process whether the first connection sent a token, and its C++ part writes to the
    terminal what is raised here: ConnectionError if no head of a cluster answers, PermissionError without its token.
    """
    command = [sys.executable, "-c", _ASK, address]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    if done.returncode == _NO_TOKEN:
        raise PermissionError("the cluster wants a token")
    if done.returncode:
        raise ConnectionError("what answers there is no head of a Ray cluster of this version")
    return [NodeRow(*row) for row in json.loads(done.stdout.splitlines()[-1])]


_NO_TOKEN = 3
_ASK = f"""
import json, sys
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import AuthenticationError
try:
    rows = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10).values()
except AuthenticationError:
    sys.exit({_NO_TOKEN})
alive = GcsNodeInfo.GcsNodeState.ALIVE
print(json.dumps([(row.node_manager_address, row.state == alive, row.raylet_socket_name) for row in rows]))
"""


def use_token() -> bool:
    """Send this user's token from now on; whether there is one that was not sent. Before any connection is made."""
    return "RAY_AUTH_MODE" not in os.environ and maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def actor_id(actor: ActorHandle) -> str:
    """The id of an actor; it outlives restarts."""
    return actor._ray_actor_id.hex()


def own_call() -> tuple[str, str]:
    """In an actor: its id and that of the call in progress."""
    context = ray.get_runtime_context()
    return context.get_actor_id() or "", context.get_task_id() or ""


def call_of(ref: ray.ObjectRef) -> tuple[str, str]:
    """The id of the actor that a call went to, and of the call."""
    task = ref.task_id()
    return task.actor_id().hex(), task.hex()


def actor_row(actor: ActorHandle) -> dict[str, Any] | None:
    """The cluster's record of an actor; None if it ended so long ago that it is forgotten."""
    return cluster_state.actors(actor_id(actor)) or None


def free_resources() -> dict[str, dict[str, float]]:
    """What is free now of each node that the cluster holds for alive, by its id."""
    return {node: dict(free) for node, free in cluster_state.available_resources_per_node().items()}
