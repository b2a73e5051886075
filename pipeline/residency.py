"""What is up while work is done: a Ray session, a pool of engines. Both are timed, both end with their block.

Or the session and the engines of a service, which stay up: then starting them costs nothing, and nothing ends.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from augment_service.engines.protocol import EngineKind, EngineSpec
from augment_service.worker import EngineWorker
from cluster.placement import Placement, plan
from cluster.pool import ActorPool
from cluster.session import Session, connect
from data.errors import InputError
from data.weights import weights_fingerprint
from pipeline.recipe import Cluster
from pipeline.serve.state import ServiceState, find_service
from pipeline.workspace import Workspace


@contextmanager
def open_cluster(wanted: Cluster, space: Workspace, console: Console) -> Iterator[Placement]:
    """A Ray session and the placement that it allows."""
    with ExitStack() as stack:
        with space.timed("start ray"):
            session = stack.enter_context(connect(address=wanted.address, log_dir=space.logs))
        console.print(f"logs      {space.logs}", highlight=False)
        yield place(session, wanted)


def place(session: Session, wanted: Cluster) -> Placement:
    """What of the session's nodes each engine and each rank gets."""
    return plan(
        cpus=session.cpus,
        gpus=session.gpus,
        nodes=session.nodes,
        engines=wanted.engines,
        tensor_parallel=wanted.tensor_parallel,
        pipeline_parallel=wanted.pipeline_parallel,
        ranks=wanted.ranks,
    )


def engine_spec(kind: EngineKind, model: str, wanted: Cluster, seed: int = 0) -> EngineSpec:
    """An engine of that kind, of the sizes that the cluster's section asks for."""
    return EngineSpec(
        kind=kind,
        model=model,
        tensor_parallel=wanted.tensor_parallel,
        pipeline_parallel=wanted.pipeline_parallel,
        kv_cache_gib=wanted.kv_cache_gib,
        seed=seed,
    )


def start_pool(spec: EngineSpec, wanted: Cluster, placement: Placement, name: str | None = None) -> ActorPool:
    """A pool of the engines that were placed; with a `name`, others can attach."""
    return ActorPool(
        EngineWorker,
        (spec,),
        num_actors=placement.engines,
        num_cpus=placement.cpus_per_engine,
        num_gpus=placement.gpus_per_engine,
        deadline_seconds=wanted.deadline_seconds,
        start_seconds=wanted.start_seconds,
        name=name,
    )


def wanted_service(name: str | None, bases: Iterable[str]) -> ServiceState | None:
    """The service of that name, whose model is that of all the folders `bases`; None if none is named.

    Raises InputError if it is not up, serves other weights, or is a dry run.
    """
    if name is None:
        return None
    state, where = find_service(name), f"--service {name}"
    if state is None:
        raise InputError("no service of this name is up", where=where, hint="start it: entail serve up --model MODEL")
    if state.kind != "vllm":
        raise InputError("this service is a dry run", where=where, hint="start one with a real engine")
    for base in bases:
        if not (Path(base) / "config.json").exists() or weights_fingerprint(Path(base)) != state.weights:
            raise InputError(
                f"it serves {state.model_name}, wanted is {base}",
                where=where,
                hint="start a service of that model under another name, or leave --service out",
            )
    return state


@contextmanager
def open_engines(
    model: str,
    wanted: Cluster,
    seed: int,
    placement: Placement,
    space: Workspace,
    console: Console,
    service: ServiceState | None = None,
) -> Iterator[ActorPool]:
    """A pool of vLLM engines with that model, or that of a service; its start is timed apart from its work."""
    if service is not None:
        with space.timed("start engines"):
            pool = ActorPool.attach(service.name)
        yield pool
        return
    spec = engine_spec("vllm", model, wanted, seed)
    with ExitStack() as stack:
        with space.timed("start engines"), console.status(f"starting {placement.engines} vLLM engines"):
            pool = stack.enter_context(start_pool(spec, wanted, placement))
        yield pool
