"""What stages share: where a command works, its Ray session, its engines. Starts are timed apart from the work.

The engines may be those of a service, which stay up: then starting them costs nothing, and nothing ends.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import ray
from rich.console import Console
from rich.markup import escape

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.window import fit_window
from augment_service.jobs import job_of
from augment_service.model_free import is_model_free
from augment_service.worker import UNITS_AT_ONCE, EngineWorker
from cluster.inspection import check_nodes
from cluster.logs import collect
from cluster.memory import gpu_bytes
from cluster.meter import Meter, export, format_seconds
from cluster.placement import Placement, plan
from cluster.places import POLL_SECONDS, Say, Wait, await_room, describe_nodes, living_nodes
from cluster.pool import PLACE_SECONDS, ActorPool, Unit
from cluster.session import Session, connect
from cluster.termination import TerminatedError
from data.errors import InputError, ResumableError
from data.records import ShardReceipt
from data.weights import model_fingerprint
from pipeline.models import Model, engine_spec
from pipeline.progress import bar
from pipeline.sections import Cluster, Engine, TrainRun
from pipeline.serve.state import ServiceState, find_service
from pipeline.workspace import Workspace

MAX_LIGHT_ACTORS = 16  # each does several hundred documents a second


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

    def __init__(
        self,
        setting: Setting,
        train: TrainRun | None = None,
        *,
        whole_nodes: bool = False,
        models: Sequence[str] = (),
    ) -> None:
        """With `whole_nodes`, ranks without GPUs get a node each, unless the section says how many there are.

        `models` are folders that every node must see, as it must see the command's own.
        """
        super().__init__()
        self._models = [Path(model) for model in models if (Path(model) / "config.json").exists()]
        self._setting, self._train, self._whole_nodes = setting, train, whole_nodes
        self._most_nodes = 0
        self._said: list[str] = []

    @cached_property
    def _session(self) -> Session:
        setting = self._setting
        service = find_running(setting.engine.service) if setting.engine.service else None
        address = service.address if service else setting.cluster.address
        with setting.space.timed("start ray"), setting.console.status("starting Ray"):
            session = self.enter_context(connect(address=address, log_dir=setting.space.logs))
            if setting.cluster.address and len(session.nodes) > 1:
                check_nodes(session.address, [setting.space.root], self._models)
                self.push(self._collect_logs)
        setting.say("logs", str(setting.space.logs))
        return session

    def _collect_logs(self, kind: type[BaseException] | None, *_: object) -> None:
        """After an error, copy what other nodes printed into the command's logs."""
        if kind is None or issubclass(kind, InputError | KeyboardInterrupt | TerminatedError):
            return
        with suppress(Exception):  # the first error is what matters
            job = ray.get_runtime_context().get_job_id()
            found = collect(self._setting.space.logs, job=job, here=False)
            self._setting.say("logs", f"of {len(found)} other nodes, in {self._setting.space.logs}")

    @property
    def placement(self) -> Placement:
        """What each engine and each training rank gets on the nodes that live now; the first look starts Ray.

        Waits where no engine fits, but did, or may when nodes have come. Raises InputError if none ever can, and
        ResumableError after the wait.
        """
        seconds = self._setting.cluster.place_seconds
        wait = Wait("room for an engine", seconds, partial(self._setting.say, "placement"))
        while True:
            session = self._session.now()
            self._most_nodes = max(self._most_nodes, len(session.nodes))
            try:
                return self._place(session)
            except InputError as error:
                if session.cpus and len(session.nodes) == self._most_nodes:
                    raise
                if not wait.goes_on():
                    raise ResumableError(f"for {seconds:g} s no engine has fitted: {error.what}") from error
            time.sleep(POLL_SECONDS)

    def after_loss(self, placement: Placement, group: int) -> Placement:
        """The placement again when its ranks have room, or one of fewer ranks after a wait; a multiple of `group`.

        Raises ResumableError if not even one group of ranks has room then.
        """
        setting, seconds = self._setting, self._setting.cluster.place_seconds
        each = f"{placement.cpus_per_rank} CPU{'s' * (placement.cpus_per_rank > 1)}" + ", a GPU" * (
            placement.gpus_per_rank > 0
        )
        wanted = f"{placement.ranks} training rank{'s' * (placement.ranks > 1)} ({each} each)"
        wait = Wait(f"room for {wanted}", seconds, partial(setting.say, "placement"))
        found = await_room(placement.ranks, placement.cpus_per_rank, placement.gpus_per_rank, wait)
        if found == placement.ranks:
            return placement
        ranks = found - found % group
        if not ranks:
            there = f"{describe_nodes(living_nodes())}, with room for {found} of them"
            group_of = f", in groups of {group}" if group > 1 else ""
            raise ResumableError(f"for {seconds:g} s {wanted} were wanted{group_of}; there are {there}")
        setting.say("placement", f"training goes on with {ranks} of {placement.ranks} ranks")
        return replace(placement, ranks=ranks)

    def _place(self, session: Session) -> Placement:
        """The placement on these nodes, and a line if something that was asked for has no room."""
        setting = self._setting
        engines, ranks = setting.engine.engines, self._train.ranks if self._train else None
        if ranks is None and self._whole_nodes and not session.gpus:
            ranks = max(1, sum(cpus > 0 for cpus, _ in session.nodes))  # a head may have none
        placed = place(session, engine_spec(setting.engine, "", setting.seed), engines=engines, ranks=ranks)
        lines = []
        for wanted, found, name in ((engines, placed.engines, "engines"), (ranks, placed.ranks, "ranks")):
            if wanted and wanted > found:
                each = f"each takes {placed.gpus_per_engine} GPUs and a CPU" if session.gpus else "each takes a CPU"
                has = f"the cluster has {session.cpus} CPUs and {session.gpus} GPUs"
                lines.append(f"{found} {name} instead of {wanted}: {each} or more on one node, and {has}")
        if len(session.nodes) < self._most_nodes:
            lost = f"of {self._most_nodes} nodes that were there, {len(session.nodes)} live"
            lines.append(f"{lost}; room for engines: {placed.engines}, for training ranks: {placed.ranks}")
        for line in lines if lines != self._said else ():
            setting.say("placement", line)
        self._said = lines
        return placed


class LazyEngines(ExitStack):
    """A pool of engines with a model, or that of a service; it starts with the first unit, and ends with the block."""

    def __init__(self, setting: Setting, model: Model, cluster: LazyCluster) -> None:
        super().__init__()
        self._setting, self._model, self._cluster = setting, model, cluster

    @property
    def placement(self) -> Placement:
        """As that of the cluster."""
        return self._cluster.placement

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
            pool = start_pool(
                spec,
                placement,
                engine.deadline_seconds,
                engine.start_seconds,
                place_seconds=setting.cluster.place_seconds,
                say=partial(setting.say, "placement"),
            )
            return self.enter_context(pool)

    def light_pool(self, num_units: int) -> ActorPool:
        """A pool of actors without a model, a CPU each; beside the engines of a service they take what is left."""
        placement, is_served = self._cluster.placement, bool(self._setting.engine.service)
        most = placement.engines * placement.cpus_per_engine
        spec = EngineSpec(kind="fake", model="none")
        num_actors = max(1, min(num_units, most, MAX_LIGHT_ACTORS))
        return ActorPool(EngineWorker, (spec,), num_actors=num_actors, num_cpus=0 if is_served else 1)

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
    *,
    place_seconds: float = PLACE_SECONDS,
    say: Say = lambda line: None,
) -> ActorPool:
    """A pool of the engines that were placed; with a `name`, others can attach. `say` gets lines for the user."""
    return ActorPool(
        EngineWorker,
        (spec,),
        num_actors=placement.engines,
        num_cpus=placement.cpus_per_engine,
        num_gpus=placement.gpus_per_engine,
        deadline_seconds=deadline_seconds,
        start_seconds=start_seconds,
        name=name,
        place_seconds=place_seconds,
        width=UNITS_AT_ONCE,
        say=say,
    )


def do_units(
    setting: Setting,
    engines: LazyEngines,
    units: Sequence[Unit],
    stage: str,
    group_errors: dict[str, InputError | ResumableError] | None = None,
) -> Work:
    """Let the engines do the units of a stage, with a bar that counts rows; without units none is started.

    Units that need no model are done first, by actors without one, which end before engines start. Errors of single
    affinity groups are stored in `group_errors`, if given; otherwise raised when the rest is done.

    With a `metrics_port` the same counts are served to Prometheus on loopback meanwhile (0: any free port).
    """
    light = [unit for unit in units if is_model_free(unit)]
    rest = [unit for unit in units if not is_model_free(unit)]
    before, done = Work(), Work()
    if light:
        with engines.light_pool(len(light)) as pool:
            before = _run_units(setting, pool, light, stage, group_errors)
    if rest:
        try:
            done = _run_units(setting, engines.pool, rest, stage, group_errors)
        finally:
            engines.report_problems()
    return replace(done, seconds=done.seconds or before.seconds, by_job={**before.by_job, **done.by_job})


def _run_units(
    setting: Setting,
    pool: ActorPool,
    units: Sequence[Unit],
    stage: str,
    group_errors: dict[str, InputError | ResumableError] | None,
) -> Work:
    receipts: list[tuple[float, ShardReceipt]] = []
    console, port = setting.console, setting.cluster.metrics_port
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
