"""How many engines and training ranks fit on a cluster, and what each of them gets: arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import InputError

MAX_CPU_ENGINES = 8  # an engine without a GPU still takes 1-2 GB of memory


@dataclass(frozen=True, slots=True)
class Placement:
    """The resources of engines and ranks, in logical CPUs and GPUs. Producer: `plan`. Consumers: the stages.

    Engines and ranks do not run at the same time, so each side may use the whole cluster.
    """

    engines: int
    cpus_per_engine: int
    gpus_per_engine: int
    ranks: int
    cpus_per_rank: int
    gpus_per_rank: int


def plan(
    *,
    cpus: int,
    gpus: int,
    nodes: Sequence[tuple[int, int]] | None = None,
    engines: int | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    ranks: int | None = None,
) -> Placement:
    """The placement on `cpus` logical CPUs and `gpus` GPUs; `engines` and `ranks` are upper limits, None is no limit.

    `nodes` are the (CPUs, GPUs) of each node, None for a single one: an engine and its `tensor_parallel` x
    `pipeline_parallel` GPUs (without any, CPUs) are on one node. Raises InputError for counts below 1 and if no engine
    fits.
    """
    counts = {
        "cpus": cpus,
        "engines": engines,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "ranks": ranks,
    }
    for flag, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{count} is too few", where=flag, hint="give 1 or more")
    nodes = nodes or [(cpus, gpus)]
    per_engine = tensor_parallel * pipeline_parallel
    unit, most = "GPU", max(node_gpus for _, node_gpus in nodes)
    if not gpus:
        unit, most = "CPU", max(node_cpus for node_cpus, _ in nodes)
    cpus_needed, gpus_per_engine, gpus_per_rank = (1, per_engine, 1) if gpus else (per_engine, 0, 0)
    places = _room(nodes, cpus_needed, gpus_per_engine)
    if not places:
        raise InputError(
            f"an engine needs {per_engine} {unit}s and a CPU on one node, and no node has more than {most}",
            where="tensor_parallel, pipeline_parallel",
            hint=f"give at most {max(most, 1)} as their product, or attach to a larger cluster",
        )
    # never more actors than fit: Ray would wait forever
    most_engines = places if gpus else min(places, MAX_CPU_ENGINES)
    most_ranks = _room(nodes, 1, gpus_per_rank)
    num_engines = min(engines or most_engines, most_engines)
    num_ranks = min(ranks or most_ranks, most_ranks)
    return Placement(
        engines=num_engines,
        cpus_per_engine=_most_cpus_each(nodes, num_engines, gpus_per_engine),
        gpus_per_engine=gpus_per_engine,
        ranks=num_ranks,
        cpus_per_rank=_most_cpus_each(nodes, num_ranks, gpus_per_rank),
        gpus_per_rank=gpus_per_rank,
    )


def _room(nodes: Sequence[tuple[int, int]], cpus_each: int, gpus_each: int) -> int:
    """How many actors of that size fit on the nodes."""
    return sum(min(cpus // cpus_each, gpus // gpus_each if gpus_each else cpus) for cpus, gpus in nodes)


def _most_cpus_each(nodes: Sequence[tuple[int, int]], count: int, gpus_each: int) -> int:
    most = sum(cpus for cpus, _ in nodes) // count
    return next(cpus for cpus in range(most, 0, -1) if _room(nodes, cpus, gpus_each) >= count)
