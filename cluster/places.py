"""The nodes of a session that live, and waiting for room on them. Ray must be initialised. No files."""

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.ray_internals import free_resources

ANSWER_SECONDS = 3.0  # for a node to accept a connection
POLL_SECONDS = 1.0
SILENT_SECONDS = 5.0  # of a wait that is not worth a line
LINE_SECONDS = 60.0  # between two lines
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Node:
    """A living node: Ray's id and address of it, its CPUs and GPUs. Producer: `living_nodes`."""

    id: str
    address: str
    cpus: int
    gpus: int


def living_nodes() -> list[Node]:
    """The nodes that the cluster holds for alive and that accept a connection: it notices a death after up to a minute.

    All that are alive for the cluster if none answers: then the connections fail for another reason.
    """
    rows = [row for row in ray.nodes() if row["Alive"]]
    with ThreadPoolExecutor(min(32, len(rows) or 1)) as threads:
        answers = list(threads.map(_answers, ((row["NodeManagerAddress"], row["NodeManagerPort"]) for row in rows)))
    found = [row for row, answered in zip(rows, answers, strict=True) if answered] or rows
    return [
        Node(
            row["NodeID"],
            row["NodeManagerAddress"],
            int(row["Resources"].get("CPU", 0)),
            int(row["Resources"].get("GPU", 0)),
        )
        for row in found
    ]


def _answers(address: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=ANSWER_SECONDS):
        return True
    return False


def describe_nodes(nodes: Sequence[Node]) -> str:
    """What is there, in a phrase."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus} CPUs and {gpus} GPUs"


class Wait:
    """A wait of at most `seconds` for what is `wanted` (a phrase), with a line every minute that says so."""

    def __init__(self, wanted: str, seconds: float, say: Say) -> None:
        self._wanted, self._seconds, self._say = wanted, seconds, say
        self._began = time.monotonic()
        self._next_line = SILENT_SECONDS

    def goes_on(self, allowance: float = 0.0) -> bool:
        """Whether time is left, asked again and again; the first `allowance` seconds do not count."""
        waited = time.monotonic() - self._began - allowance
        if waited >= self._seconds:
            return False
        if waited >= self._next_line:
            self._next_line = waited + LINE_SECONDS
            left = self._seconds - waited
            there = describe_nodes(living_nodes())
            self._say(f"{self._wanted} wanted, {there} there; waiting for up to {left:.0f} s more")
        return True


def await_room(count: int, cpus: int, gpus: int, wait: Wait) -> int:
    """Wait until `count` processes of `cpus` and `gpus` fit at once; how many fit: `count`, or fewer after the wait.

    The room is asked of Ray, so that an autoscaler sees the demand; it is given back at once.
    """
    bundle = {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}
    group = placement_group([bundle] * count)
    try:
        while not group.wait(POLL_SECONDS):
            if not wait.goes_on():
                break
        else:
            return count
    finally:
        remove_placement_group(group)
    return min(count - 1, free_room(cpus, gpus))


def total_room(cpus: float, gpus: float) -> int:
    """How many processes of that size the living nodes can hold, if nothing else runs there."""
    fitting = (min(node.cpus // cpus if cpus else 1, node.gpus // gpus if gpus else 2**30) for node in living_nodes())
    return int(sum(fitting))


def free_room(cpus: int, gpus: int) -> int:
    """How many processes of that size fit beside what runs now on the living nodes."""
    free = free_resources()
    found = (free.get(node.id, {}) for node in living_nodes())
    return sum(
        int(min(of.get("CPU", 0) // cpus, of.get("GPU", 0) // gpus if gpus else of.get("CPU", 0))) for of in found
    )
