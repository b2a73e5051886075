"""What is up while work is done: a Ray session, a pool of engines. Both are timed, both end with their block."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from augment_service.engine import EngineSpec
from augment_service.worker import EngineWorker
from cluster.placement import Placement, plan
from cluster.pool import ActorPool
from cluster.session import connect
from pipeline.recipe import Cluster
from pipeline.workspace import Workspace


@contextmanager
def open_cluster(wanted: Cluster, space: Workspace, console: Console) -> Iterator[Placement]:
    """A Ray session and the placement that it allows."""
    with ExitStack() as stack:
        with space.timed("start ray"):
            session = stack.enter_context(connect(address=wanted.address, log_dir=space.logs))
        console.print(f"logs      {space.logs}", highlight=False)
        yield plan(
            cpus=session.cpus,
            gpus=session.gpus,
            engines=wanted.engines,
            tensor_parallel=wanted.tensor_parallel,
            ranks=wanted.ranks,
        )


@contextmanager
def open_engines(
    model: str, wanted: Cluster, seed: int, placement: Placement, space: Workspace, console: Console
) -> Iterator[ActorPool]:
    """A pool of vLLM engines with that model; its start is timed apart from its work."""
    spec = EngineSpec(
        kind="vllm", model=model, tensor_parallel=wanted.tensor_parallel, kv_cache_gib=wanted.kv_cache_gib, seed=seed
    )
    with ExitStack() as stack:
        with space.timed("start engines"), console.status(f"starting {placement.engines} vLLM engines"):
            pool = stack.enter_context(
                ActorPool(
                    EngineWorker,
                    (spec,),
                    num_actors=placement.engines,
                    num_cpus=placement.cpus_per_engine,
                    num_gpus=placement.gpus_per_engine,
                )
            )
        yield pool
