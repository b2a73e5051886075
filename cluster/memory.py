"""How much memory a training rank has: of the host, or of its GPU.

Reads /proc, the control group's limit, `nvidia-smi`; of an attached cluster, what Ray knows of its nodes.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from cluster.install import ask_driver
from cluster.placement import Placement

MIB = 2**20
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def host_bytes(limit: Path = CGROUP_LIMIT) -> int:
    """The memory of this machine, or of the container that this process is in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(said)) if said.isdigit() else total


def gpu_bytes() -> int | None:
    """The memory of this machine's smallest GPU; None without one."""
    lines = ask_driver("--query-gpu=memory.total", "--format=csv,noheader,nounits")
    return min((int(line) * MIB for line in lines if line.isdigit()), default=None)


def rank_bytes(placement: Placement, address: str | None) -> int | None:
    """The memory of one rank of a session; None if it is unknown.

    Ranks without a GPU share their node's memory. With `address` None the session is this machine's own; otherwise Ray
    must be attached to that cluster.
    """
    if placement.gpus_per_rank:
        return gpu_bytes()
    if address is None:
        return host_bytes() // placement.ranks
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = [(int(node.get("CPU", 0)), int(node["memory"] + node.get("object_store_memory", 0))) for node in nodes]
    return share_of_nodes(sizes, placement)


def share_of_nodes(nodes: Sequence[tuple[int, int]], placement: Placement) -> int:
    """Bytes of a rank on the fullest node, if each node holds as many as fit; nodes are (CPUs, bytes)."""
    places = ((min(placement.ranks, cpus // placement.cpus_per_rank), size) for cpus, size in nodes)
    return min(size // count for count, size in places if count)
