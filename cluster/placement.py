"""How many engines and training ranks a cluster carries, and what each of them gets: arithmetic alone."""

from dataclasses import dataclass

from data.errors import InputError

MOST_CPU_ENGINES = 8  # an engine without a GPU still takes 1-2 GB of memory


@dataclass(frozen=True, slots=True)
class Placement:
    """Who gets what, in logical CPUs and GPUs. Producer: `plan`. Consumers: the stages.

    Engines and ranks do not run at the same time, so each side may use the whole cluster.
    """

    engines: int
    cpus_per_engine: int
    gpus_per_engine: int
    ranks: int
    cpus_per_rank: int
    gpus_per_rank: int


def plan(
    *, cpus: int, gpus: int, engines: int | None = None, tensor_parallel: int = 1, ranks: int | None = None
) -> Placement:
    """The placement on `cpus` logical CPUs and `gpus` GPUs; `engines` and `ranks` are upper limits, None is no limit.

    Raises InputError for counts below 1 and for an engine that needs more GPUs than there are.
    """
    for flag, count in (("cpus", cpus), ("engines", engines), ("tensor_parallel", tensor_parallel), ("ranks", ranks)):
        if count is not None and count < 1:
            raise InputError(f"{count} is too few", where=flag, mend="give 1 or more")
    if tensor_parallel > max(gpus, 1):
        raise InputError(
            f"an engine over {tensor_parallel} GPUs is wanted, the cluster has {gpus}",
            where="tensor_parallel",
            mend=f"give at most {max(gpus, 1)}, or attach to a larger cluster",
        )
    # never more actors than CPUs: Ray would wait for a place without end
    most_engines = min(cpus, gpus // tensor_parallel if gpus else MOST_CPU_ENGINES)
    most_ranks = min(cpus, gpus or cpus)
    num_engines = min(engines or most_engines, most_engines)
    num_ranks = min(ranks or most_ranks, most_ranks)
    return Placement(
        engines=num_engines,
        cpus_per_engine=cpus // num_engines,
        gpus_per_engine=tensor_parallel if gpus else 0,
        ranks=num_ranks,
        cpus_per_rank=cpus // num_ranks,
        gpus_per_rank=1 if gpus else 0,
    )
