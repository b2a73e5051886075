"""What stages share: where a command works, its Ray session, its engines. Starts are timed apart from the work.

The engines may be those of a service, which stay up: then starting them costs nothing, and nothing ends.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.window import fit_window
from augment_service.jobs import job_of
from augment_service.worker import UNITS_AT_ONCE, EngineWorker
from cluster.memory import gpu_bytes
from cluster.meter import Meter, export, format_seconds
from cluster.placement import Placement, plan
from cluster.pool import ActorPool, Unit
from cluster.session import Session, connect
from data.errors import InputError, ResumableError
from data.records import ShardReceipt
from data.weights import model_fingerprint
from pipeline.models import Model, engine_spec
from pipeline.progress import bar
from pipeline.sections import Cluster, Engine, TrainRun
from pipeline.serve.state import ServiceState, find_service
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Setting:
    """Where a command works and on what."""

    space: Workspace
    console: Console
    engine: Engine
    cluster: Cluster
    seed: int

    def say(self, label: str, text: str) -> None:
        """One line for the user."""
        self.console.print(f"{label:<9} {text}", highlight=False, markup=False, soft_wrap=True)

    def spec(self, model: Model) -> EngineSpec:
        """How an engine with that model is started."""
        return engine_spec(self.engine, model.path, self.seed)

    def window(self, model: Model) -> int | None:
        """Tokens that prompt and answer may have together; None where only the engine knows."""
        if self.engine.kind != "vllm":
            return self.engine.window
        return fit_window(self.spec(model), on_cpu=gpu_bytes() is None).tokens


@dataclass(frozen=True)
class Work:
    """What a stage's units took: `seconds` of wall time, those by job as they shared it, and what the engines did.

    `engine_seconds` is the time in which engines worked, added up; 0 where no engine says so. Of the tokens read, the
    share `hit_rate` came from the prefix cache.
    """

    seconds: float = 0.0
    by_job: Mapping[str, float] = field(default_factory=dict)
    engine_seconds: float = 0.0
    engines: int = 0
    computed_tokens: int = 0
    answer_tokens: int = 0
    hit_rate: float = 0.0

    @property
    def busy(self) -> float | None:
        """The share of the time in which the engines worked."""
        available = self.engines * self.seconds
        return self.engine_seconds / available if available and self.engine_seconds else None


def place(session: Session, spec: EngineSpec, *, engines: int | None = None, ranks: int | None = None) -> Placement:
    """What of the session's nodes each engine and each training rank gets; the counts are upper limits."""
    return plan(
        cpus=session.cpus,
        gpus=session.gpus,
        nodes=session.nodes,
        engines=engines,
        tensor_parallel=spec.tensor_parallel,
        pipeline_parallel=spec.pipeline_parallel,
        ranks=ranks,
    )


class LazyCluster(ExitStack):
    """A Ray session that starts when its placement is first asked for, and ends with the block."""

    def __init__(self, setting: Setting, train: TrainRun | None = None, *, whole_nodes: bool = False) -> None:
        """With `whole_nodes`, ranks without GPUs get a node each, unless the section says how many there are."""
        super().__init__()
        self._setting, self._train, self._whole_nodes = setting, train, whole_nodes

    @cached_property
    def placement(self) -> Placement:
        """What each engine and each training rank gets; the first look starts Ray, or attaches to a cluster."""
        setting = self._setting
        service = find_running(setting.engine.service) if setting.engine.service else None
        address = service.address if service else setting.cluster.address
        with setting.space.timed("start ray"), setting.console.status("starting Ray"):
            session = self.enter_context(connect(address=address, log_dir=setting.space.logs))
        setting.say("logs", str(setting.space.logs))
        spec = engine_spec(setting.engine, "", setting.seed)
        engines, ranks = setting.engine.engines, self._train.ranks if self._train else None
        if ranks is None and self._whole_nodes and not session.gpus:
            ranks = len(session.nodes)
        placed = place(session, spec, engines=engines, ranks=ranks)
        for wanted, found, name in ((engines, placed.engines, "engines"), (ranks, placed.ranks, "ranks")):
            if wanted and wanted > found:
                each = f"each takes {placed.gpus_per_engine} GPUs and a CPU" if session.gpus else "each takes a CPU"
                has = f"the cluster has {session.cpus} CPUs and {session.gpus} GPUs"
                setting.say("placement", f"{found} {name} instead of {wanted}: {each} or more on one node, and {has}")
        return placed


class LazyEngines(ExitStack):
    """A pool of engines with a model, or that of a service; it starts with the first unit, and ends with the block."""

    def __init__(self, setting: Setting, model: Model, cluster: LazyCluster) -> None:
        super().__init__()
        self._setting, self._model, self._cluster = setting, model, cluster

    @cached_property
    def pool(self) -> ActorPool:
        """The pool; its start is timed apart from its work."""
        setting, engine, placement = self._setting, self._setting.engine, self._cluster.placement
        if engine.service:
            return ActorPool.attach(engine.service)
        spec = setting.spec(self._model)
        if spec.kind == "vllm":
            sentence = fit_window(spec, on_cpu=gpu_bytes() is None).sentence
            setting.console.print(sentence, highlight=False, soft_wrap=True)
        with setting.space.timed("start engines"), setting.console.status(f"starting {placement.engines} engines"):
            seconds = engine.deadline_seconds, engine.start_seconds
            return self.enter_context(start_pool(spec, placement, *seconds))

    def report_problems(self) -> None:
        """Print which engines failed to start, while others work."""
        for problem in self.pool.problems:
            self._setting.console.print(f"[yellow]{escape(problem)}[/]", highlight=False, soft_wrap=True)
        self.pool.problems.clear()


def start_pool(
    spec: EngineSpec,
    placement: Placement,
    deadline_seconds: float | None,
    start_seconds: float,
    name: str | None = None,
) -> ActorPool:
    """A pool of the engines that were placed; with a `name`, others can attach."""
    return ActorPool(
        EngineWorker,
        (spec,),
        num_actors=placement.engines,
        num_cpus=placement.cpus_per_engine,
        num_gpus=placement.gpus_per_engine,
        deadline_seconds=deadline_seconds,
        start_seconds=start_seconds,
        name=name,
        width=UNITS_AT_ONCE,
    )


def do_units(
    setting: Setting,
    engines: LazyEngines,
    units: Sequence[Unit],
    stage: str,
    group_errors: dict[str, InputError | ResumableError] | None = None,
) -> Work:
    """Let the engines do the units of a stage, with a bar that counts rows; without units none is started.

    Errors of single affinity groups are stored in `group_errors`, if given; otherwise raised when the rest is done.

    With a `metrics_port` the same counts are served to Prometheus on loopback meanwhile (0: any free port).
    """
    if not units:
        return Work()
    receipts: list[tuple[float, ShardReceipt]] = []
    pool, console, port = engines.pool, setting.console, setting.cluster.metrics_port  # a start has its own time
    pool.meter = meter = Meter(sum(unit.num_rows for unit in units))
    try:
        with setting.space.timed(stage), ExitStack() as stack:
            if port is not None:
                port = stack.enter_context(export(meter.snapshot, port))
                console.print(f"metrics   http://127.0.0.1:{port}/metrics", highlight=False)
            shown = stack.enter_context(bar(console, stage, meter.snapshot().total))
            meter.on_change = lambda: shown.update(meter.snapshot().answered, meter.snapshot().rates())
            pool.run(units, lambda receipt: receipts.append((time.monotonic(), receipt)), group_errors)
    finally:
        pool.meter = None
        engines.report_problems()
    done = meter.snapshot()
    console.print(f"{stage}: {done.items} rows in {format_seconds(done.seconds)}, {done.rates()}", highlight=False)
    worked, written = (
        sum(getattr(receipt, name) for _, receipt in receipts) for name in ("engine_seconds", "answer_tokens")
    )
    return Work(
        done.seconds, _seconds_by_job(receipts), worked, len(pool.states()), done.tokens, written, done.hit_rate
    )


def _seconds_by_job(receipts: Sequence[tuple[float, ShardReceipt]]) -> dict[str, float]:
    """The time in which units were at work, divided equally at each moment among those that were."""
    spans = [(ended - receipt.wall_seconds, ended, job_of(receipt.unit)) for ended, receipt in receipts]
    changes = sorted([(start, 1, job) for start, _, job in spans] + [(end, -1, job) for _, end, job in spans])
    running: Counter[str] = Counter()
    seconds: dict[str, float] = dict.fromkeys((job for _, _, job in spans), 0.0)
    before = 0.0
    for moment, change, job in changes:
        if total := running.total():
            for name, count in running.items():
                seconds[name] += (moment - before) * count / total
        running[job] += change
        before = moment
    return seconds


def find_running(name: str) -> ServiceState:
    """The service of that name. Raises InputError if it is not up or is a dry run."""
    state, where = find_service(name), f"--service {name}"
    if state is None:
        raise InputError("no service of this name is up", where=where, hint="start it: entail serve up --model MODEL")
    if state.kind != "vllm":
        raise InputError("this service is a dry run", where=where, hint="start one with a real engine")
    return state


def check_service(engine: Engine, folders: Sequence[str]) -> None:
    """Raise InputError unless the named service, if any, serves the model of all these folders."""
    if not engine.service:
        return
    state = find_running(engine.service)
    for folder in folders:
        if not (Path(folder) / "config.json").exists() or model_fingerprint(Path(folder)) != state.weights:
            raise InputError(
                f"the service serves {state.model_name}, not {folder}",
                where=f"--service {engine.service}",
                hint="start a service of that model under another name, or leave --service out",
            )
