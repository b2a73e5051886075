"""The logs of all nodes in one place: what Ray and our processes printed on other nodes, copied into a folder.

Ray must be attached to the cluster. Writes OUT/NODE/: the end of each log.
"""

from collections import Counter
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.places import Node, living_nodes
from cluster.ray_internals import logs_folder

MOST_FILES = 32  # of a node, the newest
MOST_BYTES = 2**16  # of a file, its end
ANSWER_SECONDS = 15.0  # for all nodes together
# Of Ray on the node, and of all workers of a job: engines, ranks. Their names end with the job's id and the process's.
_OF_NODE, _OF_JOB = ("raylet.err", "raylet.out"), "worker-*-{job}-*.*"


def collect(out: Path, *, job: str = "*", here: bool = True) -> dict[str, int]:
    """Copy the logs of every living node, or `here` False of every other one; returns the files by node.

    Of workers those of one `job`, by its id. Nodes that do not answer in time are left out.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in living_nodes() if here or node.id != own]
    names = _names(nodes)
    asked = {_read_on(node).remote(job): node for node in nodes}
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
    for ref in late:
        ray.cancel(ref, force=True)
    found = {}
    for ref in ready:
        try:
            logs: dict[str, bytes] = ray.get(ref)
        except ray.exceptions.RayError:  # the node is gone
            continue
        folder = out / names[asked[ref].id]
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in logs.items():
            (folder / name).write_bytes(content)
        found[folder.name] = len(logs)
    return found


def _names(nodes: list[Node]) -> dict[str, str]:
    """A folder's name for each node, by its id: its address, with the id where several nodes have one."""
    counts = Counter(node.address for node in nodes)
    return {node.id: node.address.replace(":", "-") + f"-{node.id[:8]}" * (counts[node.address] > 1) for node in nodes}


def _read_on(node: Node) -> "ray.remote_function.RemoteFunction":
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(read_logs)


def read_logs(job: str) -> dict[str, bytes]:
    """The ends of the newest logs of this node that are not empty, by name."""
    folder = logs_folder()
    paths = [folder / name for name in _OF_NODE] + list(folder.glob(_OF_JOB.format(job=job)))
    there = [(path, path.stat()) for path in paths if path.exists()]
    newest = sorted((one for one in there if one[1].st_size), key=lambda one: one[1].st_mtime)[-MOST_FILES:]
    found = {}
    for path, state in newest:
        with path.open("rb") as file:
            file.seek(max(0, state.st_size - MOST_BYTES))
            found[path.name] = file.read()
    return found
