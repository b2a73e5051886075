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
    """The memory of one rank of a session, of its GPU if it has one; None if it is unknown."""
    return gpu_bytes() if placement.gpus_per_rank else host_rank_bytes(placement, address)


def host_rank_bytes(placement: Placement, address: str | None) -> int:
    """A rank's share of its node's memory.

    With `address` None the session is this machine's own; otherwise Ray must be attached to that cluster.
    """
    if address is None:
        return host_bytes() // placement.ranks
    import ray

    unit = "GPU" if placement.gpus_per_rank else "CPU"
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = [(int(node.get(unit, 0)), int(node["memory"] + node.get("object_store_memory", 0))) for node in nodes]
    return share_of_nodes(sizes, placement)


def share_of_nodes(nodes: Sequence[tuple[int, int]], placement: Placement) -> int:
    """Bytes of a rank on the fullest node, if each node holds as many as fit; nodes are (GPUs or CPUs, bytes)."""
    each = placement.gpus_per_rank or placement.cpus_per_rank
    places = ((min(placement.ranks, units // each), size) for units, size in nodes)
    return min(size // count for count, size in places if count)
